"""``sealserve predict``: one request."""

import base64
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import typer

from sealserve.atomic_file import PRIVATE, OutputExistsError, replacing
from sealserve.cli import connection, console
from sealserve.cli.tensor_input import TensorInputError, read_inputs
from sealserve.client.credentials import printable
from sealserve.client.predict import Predictor
from sealserve.deployment import LARGEST_VERSION, Deployment
from sealserve.errors import UnavailableError

app = typer.Typer(add_completion=False)
SHOWN = 5

Model = Annotated[str | None, typer.Option("--model", "-m", help="The servable.", show_default="model.name")]
LONGEST_WAIT: Final = 86_400.0  # seconds; gRPC takes far longer ones for times that have passed


class OutputUnsavableError(UnavailableError):
    """A model's output cannot be kept in a .npz file as it is."""

    code = "predict.output"


@app.command()
def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=VALUE", help="@FILE.npy, a JSON value, or random (the default)."),
    ] = None,
    model: Model = None,
    signature: Annotated[str, typer.Option(help="Which of the model's signatures.")] = "serving_default",
    version: Annotated[int | None, typer.Option(min=0, max=LARGEST_VERSION, show_default="the newest")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Of random inputs.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of random inputs.")] = 0,
    save: Annotated[Path | None, typer.Option(metavar="FILE.npz", help="Write the outputs there.")] = None,
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
    if save is not None and save.exists() and not force:
        raise OutputExistsError(f"{save} exists already.", hint="Give another output, or --force to replace it.")
    reach, described = connection.find_access(
        directory, target=target, server_name=server_name, ca=ca, certificate=certificate, key=key
    )
    name = find_model(model, described)
    with connection.channels(reach, 1, timeout=min(timeout, 10)) as opened:
        predictor = Predictor(opened)
        signatures = predictor.metadata(name, version=version, timeout=timeout).signatures
        if signature not in signatures:
            raise TensorInputError(f"{name} has no signature {signature!r}; it has {printable(', '.join(signatures))}.")
        arrays = read_inputs(inputs or [], signatures[signature], batch=batch, seed=seed)
        started = time.monotonic()
        answer = predictor.predict(name, arrays, signature=signature, version=version, timeout=timeout)
        seconds = time.monotonic() - started
    if save is not None:
        with replacing(save, mode=PRIVATE, overwrite=force) as stream:
            _save(answer.outputs, stream)
    if as_json:
        console.print_json({
            "model": answer.model,
            "version": answer.version,
            "seconds": seconds,
            "outputs": {key: _jsonable(value.tolist()) for key, value in answer.outputs.items()},
        })  # fmt: skip
        return
    console.out.print(f"{printable(answer.model)} version {answer.version}, {seconds * 1000:.0f} ms:")
    _print_outputs(answer.outputs)


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


def _save(outputs: Mapping[str, npt.NDArray[Any]], stream: BinaryIO) -> None:
    """Write a .npz file. `numpy.savez` would take an output ``file`` for its argument, and pickle strings.

    Raises:
        OutputUnsavableError: A string ends in a zero byte: numpy pads strings with them.
    """
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in outputs.items():
            array = value.astype("S") if value.dtype.kind == "O" else value
            if value.dtype.kind == "O" and (array != value).any():
                raise OutputUnsavableError(
                    f"The output {printable(name)!r} cannot be saved: a string in it ends in a zero byte.",
                    hint="Print it with --json instead.",
                )
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


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
        console.out.print(f"{printable(name)}: {value.dtype}, {shape}")
        if value.dtype.kind in "fiu" and value.ndim > 1 and value.shape[-1] > SHOWN:
            for row in value.reshape(-1, value.shape[-1])[:SHOWN]:
                best = np.argsort(row)[::-1][:SHOWN]
                form = ".4g" if value.dtype.kind == "f" else ""  # an integer may be an identifier
                console.out.print("  largest: " + ", ".join(f"[{index}] {row[index]:{form}}" for index in best))
        else:
            console.out.print(f"  {np.array2string(value, threshold=20)}")
