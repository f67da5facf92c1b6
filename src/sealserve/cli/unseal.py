"""``sealserve unseal``: decrypt files in Gramine's format for encrypted files."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output, Table
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.sealing.codec import unseal_file
    from sealserve.sealing.tree import unseal_tree
    from sealserve.sealing.wrap_key import read_wrap_key

app = Verbs()


@app.command()
def unseal(
    result: Output,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Sealed file, or folder of sealed files")],
    destination: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="Plaintext file or folder to create (files have mode 0600)")
    ],
    key_file: options.KeyFile,
    path: Annotated[
        str | None,
        typer.Option(help="Path to which the file must be bound", show_default="any path; the output shows it"),
    ] = None,
    allow_trailing: Annotated[
        bool,
        typer.Option("--allow-trailing", help="Accept unused data after the end of the file, which some tools leave"),
    ] = False,
    force: options.Force = False,
) -> None:
    """Decrypt a sealed file or folder. A failure leaves no output."""
    with read_wrap_key(key_file) as key, console.bytes_progress("Unsealing", console.size_of(source)) as progress:
        if source.is_dir():
            entries = unseal_tree(
                source, destination, key=key, prefix=path, allow_trailing=allow_trailing, progress=progress
            )
        else:
            found = unseal_file(
                source, destination, key=key, embedded_path=path, allow_trailing=allow_trailing, overwrite=force,
                progress=progress,
            )  # fmt: skip
    if source.is_dir():
        bound = [(entry.path, entry.unsealed.embedded_path, entry.unsealed.size) for entry in entries]
        result.show(
            [{"file": entry.path, **asdict(entry.unsealed)} for entry in entries],
            Table(("FILE", "BOUND TO", "SIZE"), bound),
        )
    else:
        result.show(
            asdict(found),
            f"Unsealed {found.size} bytes to {destination}. The input is bound to the path {found.embedded_path}.",
        )
