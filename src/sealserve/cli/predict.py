"""``sealserve predict``: send one request."""

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sealserve.cli import connection, console, kept_receipt, options
from sealserve.cli.attested_options import PolicyFile, RequireAttested, required_policy
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.request_options import (
    LONGEST_WAIT,
    Inputs,
    Label,
    Model,
    Version,
    find_model,
    find_signature,
)
from sealserve.cli.request_trace import Trace, TraceCa, TraceCollector, traced
from sealserve.cli.verbs import Verbs
from sealserve.serving_interface import DEFAULT_SIGNATURE

with deferred:
    import numpy as np
    import numpy.typing as npt

    from sealserve.atomic_file import PRIVATE, replacing
    from sealserve.cli.generated_input import Guess, first_accepted, guesses
    from sealserve.cli.saved_output import check_format, write_outputs
    from sealserve.cli.tensor_input import read_inputs
    from sealserve.client.call import INPUT_REFUSED
    from sealserve.client.credentials import printable
    from sealserve.client.predict import Prediction, check_version_choice

app = Verbs()
SHOWN = 5
SHOWN_BYTES = 16


@app.command()
def predict(
    context: Context,
    inputs: Inputs = None,
    model: Model = None,
    signature: Annotated[str, typer.Option(help="Name of the model's signature")] = DEFAULT_SIGNATURE,
    version: Version = None,
    label: Label = None,
    batch: Annotated[int, typer.Option(min=1, help="Number of rows in random inputs")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for random inputs")] = 0,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to create for the outputs: .npz, or .npy for a single output",
            show_default="none: print the outputs",
        ),
    ] = None,
    bundle: connection.BundleFile = None,
    target: connection.Target = None,
    server_name: connection.ServerName = None,
    ca: connection.ServiceCa = None,
    certificate: connection.ClientCertificate = None,
    key: connection.ClientKey = None,
    require_attested: RequireAttested = False,
    save_receipt: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to create with a receipt, the messages and the evidence; needs --require-attested and gRPC",
            show_default="none: request no receipt",
        ),
    ] = None,
    policy: PolicyFile = None,
    trace: Trace = False,
    trace_collector: TraceCollector = None,
    trace_ca: TraceCa = None,
    rest: connection.Rest = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=LONGEST_WAIT, help="Maximum time to wait, in seconds")] = 60,
    force: options.Force = False,
) -> None:
    """Send one request to the service, over TLS that ends inside the enclave.

    Without --input, all inputs are random. Examples: `sealserve predict --input 'x=[1, 2]'`, `sealserve predict
    --bundle ann.json --input image=@cat.npy`.
    """
    check_version_choice(version, label)
    if save is not None:
        check_format(save)
        options.refuse_existing(save, force=force)
    kept_receipt.check(save_receipt, require_attested=require_attested, rest=rest)
    accepted = required_policy(require_attested, policy)
    reach = connection.find_access(
        context, target=target, server_name=server_name, ca=ca, certificate=certificate, key=key, bundle=bundle
    )
    name = find_model(model, reach)
    with (
        traced(trace, collector=trace_collector, ca=trace_ca) as spans,
        connection.predictor(
            reach, rest=rest, address=target, timeout=min(timeout, 10), attested=accepted
        ) as predictor,
    ):
        signatures = predictor.metadata(name, version=version, label=label, timeout=timeout).signatures
        called = find_signature(name, signature, signatures)
        given = read_inputs(inputs or [], called, signature_name=signature)
        if save is not None:
            check_format(save, outputs=len(called.outputs) or None)

        def ask(guess: Guess) -> tuple[Prediction, float]:
            arrays = given.complete(batch=batch, seed=seed, guess=guess)
            started = time.monotonic()
            wanted = kept_receipt.wanted(save_receipt)
            with spans.request() as context_sent:
                answered = predictor.predict(
                    name, arrays, signature=signature, version=version, label=label, timeout=timeout,
                    traceparent=context_sent, **wanted,
                )  # fmt: skip
            return answered, time.monotonic() - started

        answer, seconds = first_accepted(guesses(called) if given.generated else [Guess()], ask, INPUT_REFUSED)
        kept_receipt.keep(save_receipt, answer, predictor)
    if save is not None:
        with replacing(save, mode=PRIVATE, overwrite=force) as stream:
            write_outputs(answer.outputs, stream, path=save)
    if context.as_json:
        context.show({
            "model": answer.model,
            "version": answer.version,
            "seconds": seconds,
            "random_inputs": given.generated,
            "seed": seed if given.generated else None,
            **({"receipt": str(save_receipt)} if save_receipt is not None else {}),
            **({} if spans.trace is None else {"trace": spans.trace}),
            "outputs": {key: _jsonable(value.tolist()) for key, value in answer.outputs.items()},
        })  # fmt: skip
        return
    sent = ""
    if given.generated:
        names = "input" if len(given.generated) == len(called.inputs) else ", ".join(given.generated)
        sent = f", random {printable(names)} (seed {seed})"
    console.out.print(f"{printable(answer.model)} version {answer.version}{sent}, {seconds * 1000:.0f} ms:")
    _print_outputs(answer.outputs)
    kept_receipt.report(save_receipt)
    spans.report()


def _jsonable(value: Any) -> Any:
    """Convert strings in nested lists to JSON: text, or ``{"b64": ...}`` for other bytes, like TensorFlow Serving."""
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
                form = ".4g" if value.dtype.kind == "f" else ""  # show all digits of an integer: it may be an id
                console.out.print("  largest: " + ", ".join(f"[{index}] {row[index]:{form}}" for index in best))
        else:
            console.out.print("  " + _text(value))


def _text(value: npt.NDArray[Any]) -> str:
    if value.dtype.kind != "O":
        return np.array2string(value, threshold=20)
    strings = np.vectorize(_shown_string, otypes=[object])(value) if value.size else value
    return np.array2string(strings, threshold=20, formatter={"object": str})


def _shown_string(value: bytes) -> str:
    """Return a text as a JSON string, or the length and first bytes of a string that is not text."""
    try:
        return json.dumps(value.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return f"{len(value)} bytes: {value[:SHOWN_BYTES].hex()}{'...' if len(value) > SHOWN_BYTES else ''}"
