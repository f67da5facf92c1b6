"""``sealserve inspect``: what everybody can read in a sealed file."""

from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.sealing.codec import inspect_file

app = typer.Typer(add_completion=False)


@app.command()
def inspect(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A sealed file.")],
    as_json: console.Json = False,
) -> None:
    """Show the public part of a sealed file. Needs no key; nothing of it is authenticated."""
    header = inspect_file(source)
    fields: dict[str, object] = {
        "format": header.version.value,
        "minor version": header.minor_version,
        "feature flags": header.feature_flags,
        "size": f"{header.sealed_size} bytes, {header.nodes} nodes of 4096",
    }
    if as_json:
        console.print_json(fields | {"sealed_size": header.sealed_size, "nodes": header.nodes})
    else:
        console.print_fields(fields)
