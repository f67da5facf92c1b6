"""``sealserve predict``: one request."""

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer

from sealserve.atomic_file import PRIVATE, OutputExistsError, replacing
from sealserve.cli import connection, console
from sealserve.cli.generated_input import Guess, TensorInputError, first_accepted, guesses
from sealserve.cli.saved_output import check_format, write_outputs
from sealserve.cli.tensor_input import generated_names, read_inputs
from sealserve.client.call import RequestRefusedError, ServiceFailedError
from sealserve.client.credentials import printable
from sealserve.client.predict import Prediction, Predictor, Signature
from sealserve.deployment import Deployment
from sealserve.serving_interface import DEFAULT_SIGNATURE
from sealserve.terms import LARGEST_VERSION

app = typer.Typer(add_completion=False)
SHOWN = 5
SHOWN_BYTES = 16

Model = Annotated[str | None, typer.Option("--model", "-m", help="The servable.", show_default="model.name")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help="An input: @FILE.npy, a JSON value, or random. Repeat the option for each input of the model.",
        show_default="random values for all inputs",
    ),
]
REFUSED: Final = (RequestRefusedError, ServiceFailedError)
"""What the service answers to a generated input that does not fit the model."""
LONGEST_WAIT: Final = 86_400.0  # seconds; gRPC takes far longer ones for times that have passed


@app.command()
def predict(
    inputs: Inputs = None,
    model: Model = None,
    signature: Annotated[str, typer.Option(help="Which of the model's signatures.")] = DEFAULT_SIGNATURE,
    version: Annotated[int | None, typer.Option(min=0, max=LARGEST_VERSION, show_default="the newest")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Of random inputs.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of random inputs.")] = 0,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the outputs to a .npz file, or a single output to a .npy file."),
    ] = None,
    target: connection.Target = None,
    server_name: connection.ServerName = None,
    ca: connection.ServiceCa = None,
    certificate: connection.ClientCertificate = None,
    key: connection.ClientKey = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=LONGEST_WAIT, help="Seconds.")] = 60,
    directory: console.Directory = console.HERE,
    force: console.Force = False,
    as_json: console.Json = False,
) -> None:
    """Send one request to the service, over TLS that ends inside the enclave."""
    if save is not None:
        check_format(save)
        if save.exists() and not force:
            raise OutputExistsError(f"{save} exists already.", hint="Give another output, or --force to replace it.")
    reach, described = connection.find_access(
        directory, target=target, server_name=server_name, ca=ca, certificate=certificate, key=key
    )
    name = find_model(model, described)
    with connection.channels(reach, 1, timeout=min(timeout, 10)) as opened:
        predictor = Predictor(opened)
        signatures = predictor.metadata(name, version=version, timeout=timeout).signatures
        called = find_signature(name, signature, signatures)
        generated = generated_names(inputs or [], called)
        if save is not None:
            check_format(save, outputs=len(called.outputs) or None)

        def ask(guess: Guess) -> tuple[Prediction, float]:
            arrays = read_inputs(inputs or [], called, batch=batch, seed=seed, guess=guess)
            started = time.monotonic()
            answered = predictor.predict(name, arrays, signature=signature, version=version, timeout=timeout)
            return answered, time.monotonic() - started

        answer, seconds = first_accepted(guesses(called) if generated else [Guess()], ask, REFUSED)
    if save is not None:
        with replacing(save, mode=PRIVATE, overwrite=force) as stream:
            write_outputs(answer.outputs, stream, path=save)
    if as_json:
        console.print_json({
            "model": answer.model,
            "version": answer.version,
            "seconds": seconds,
            "random_inputs": generated,
            "seed": seed if generated else None,
            "outputs": {key: _jsonable(value.tolist()) for key, value in answer.outputs.items()},
        })  # fmt: skip
        return
    sent = ""
    if generated:
        names = "input" if len(generated) == len(called.inputs) else ", ".join(generated)
        sent = f", {printable(names)}: random (seed {seed})"
    console.out.print(f"{printable(answer.model)} version {answer.version}{sent}, {seconds * 1000:.0f} ms:")
    _print_outputs(answer.outputs)


def find_signature(model: str, name: str, signatures: Mapping[str, Signature]) -> Signature:
    """Return the signature ``name`` of a model.

    Raises:
        TensorInputError: It has none of that name.
    """
    if name not in signatures:
        known = printable(", ".join(signatures)) or "none"
        raise TensorInputError(
            f"{printable(model)} has no signature {printable(repr(name), 80)}; it has {known}.",
            hint="Choose one with --signature.",
        )
    return signatures[name]


def find_model(model: str | None, described: Deployment | None) -> str:
    """Return the servable's name: what the option says, else what the deployment says.

    Raises:
        TensorInputError: Neither says one, or it is none.
    """
    name = model or (described.model.name if described else None)
    if name is None:
        raise TensorInputError("Which model?", hint="Name it with --model.")
    if not name.isprintable():  # control characters, and bytes that are no UTF-8
        raise TensorInputError(f"{printable(name)} is no name of a model.", hint="Name it with --model.")
    return name


def _jsonable(value: Any) -> Any:
    """Return nested lists with their strings as JSON has them: text, or ``{"b64": ...}`` as TensorFlow Serving does."""
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _print_outputs(outputs: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, value in outputs.items():
        shape = " x ".join(map(str, value.shape)) or "scalar"
        kind = "string" if value.dtype.kind == "O" else value.dtype
        console.out.print(f"{printable(name)}: {kind}, {shape}")
        if value.dtype.kind in "fiu" and value.ndim > 1 and value.shape[-1] > SHOWN:
            for row in value.reshape(-1, value.shape[-1])[:SHOWN]:
                best = np.argsort(row)[::-1][:SHOWN]
                form = ".4g" if value.dtype.kind == "f" else ""  # an integer may be an identifier
                console.out.print("  largest: " + ", ".join(f"[{index}] {row[index]:{form}}" for index in best))
        else:
            console.out.print("  " + _text(value))


def _text(value: npt.NDArray[Any]) -> str:
    if value.dtype.kind != "O":
        return np.array2string(value, threshold=20)
    strings = np.vectorize(_shown_string, otypes=[object])(value) if value.size else value
    return np.array2string(strings, threshold=20, formatter={"object": str})


def _shown_string(value: bytes) -> str:
    """Return a string as JSON has it, or the first bytes of one that is not text."""
    try:
        return json.dumps(value.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return f"{len(value)} bytes: {value[:SHOWN_BYTES].hex()}{'...' if len(value) > SHOWN_BYTES else ''}"
