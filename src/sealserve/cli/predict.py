"""``sealserve predict``: one request."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from sealserve.atomic_file import replacing
from sealserve.cli import connection, console
from sealserve.cli.tensor_input import TensorInputError, read_inputs
from sealserve.client.predict import Predictor

app = typer.Typer(add_completion=False)
SHOWN = 5

Model = Annotated[str | None, typer.Option("--model", "-m", help="The servable.", show_default="model.name")]


@app.command()
def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=VALUE", help="@FILE.npy, a JSON value, or random (the default)."),
    ] = None,
    model: Model = None,
    signature: Annotated[str, typer.Option(help="Which of the model's signatures.")] = "serving_default",
    version: Annotated[int | None, typer.Option(min=1, show_default="the newest")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Of random inputs.")] = 1,
    seed: Annotated[int, typer.Option(help="Of random inputs.")] = 0,
    save: Annotated[Path | None, typer.Option(metavar="FILE.npz", help="Write the outputs there.")] = None,
    target: connection.Target = None,
    server_name: connection.ServerName = None,
    ca: connection.ServiceCa = None,
    certificate: connection.ClientCertificate = None,
    key: connection.ClientKey = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds.")] = 60,
    directory: console.Directory = console.HERE,
    force: console.Force = False,
    as_json: console.Json = False,
) -> None:
    """Send one request to the service, over TLS that ends inside the enclave."""
    reach, described = connection.find_access(
        directory, target=target, server_name=server_name, ca=ca, certificate=certificate, key=key
    )
    name = model or (described.model.name if described else None)
    if name is None:
        raise TensorInputError("Which model?", hint="Name it with --model.")
    with connection.channels(reach, 1, timeout=min(timeout, 10)) as opened:
        predictor = Predictor(opened)
        signatures = predictor.metadata(name, version=version, timeout=timeout).signatures
        if signature not in signatures:
            raise TensorInputError(f"{name} has no signature {signature!r}; it has {', '.join(signatures)}.")
        arrays = read_inputs(inputs or [], signatures[signature], batch=batch, seed=seed)
        started = time.monotonic()
        answer = predictor.predict(name, arrays, signature=signature, version=version, timeout=timeout)
        seconds = time.monotonic() - started
    if save is not None:
        with replacing(save, overwrite=force) as stream:
            np.savez(stream, **dict(answer.outputs))  # type: ignore[arg-type]  # numpy's stub takes names only
    if as_json:
        console.print_json({
            "model": answer.model,
            "version": answer.version,
            "seconds": seconds,
            "outputs": {key: value.tolist() for key, value in answer.outputs.items()},
        })  # fmt: skip
        return
    console.out.print(f"{answer.model} version {answer.version}, {seconds * 1000:.0f} ms:")
    _print_outputs(answer.outputs)


def _print_outputs(outputs: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, value in outputs.items():
        shape = " x ".join(map(str, value.shape)) or "scalar"
        console.out.print(f"{name}: {value.dtype}, {shape}", markup=False)
        if value.dtype.kind in "fiu" and value.ndim > 1 and value.shape[-1] > SHOWN:
            for row in value.reshape(-1, value.shape[-1])[:SHOWN]:
                best = np.argsort(row)[::-1][:SHOWN]
                console.out.print(
                    "  largest: " + ", ".join(f"[{index}] {row[index]:.4g}" for index in best), markup=False
                )
        else:
            console.out.print(f"  {np.array2string(value, threshold=20)}", markup=False)
