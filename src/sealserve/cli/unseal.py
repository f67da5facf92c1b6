"""``sealserve unseal``: Gramine encrypted files to plaintext."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.cli.seal import KeyFile, size_of
from sealserve.sealing.codec import unseal_file
from sealserve.sealing.tree import unseal_tree
from sealserve.sealing.wrap_key import read_wrap_key

app = typer.Typer(add_completion=False)


@app.command()
def unseal(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A sealed file, or a folder of them.")],
    destination: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the plaintext appears (0600).")],
    key_file: KeyFile,
    path: Annotated[
        str | None,
        typer.Option(help="The path that it must be bound to.", show_default="any; the one found is shown"),
    ] = None,
    allow_trailing: Annotated[
        bool, typer.Option("--allow-trailing", help="Accept old nodes behind the end: some tools leave them.")
    ] = False,
    force: console.Force = False,
    as_json: console.Json = False,
) -> None:
    """Unseal a file or a folder. A failure leaves no output."""
    with read_wrap_key(key_file) as key, console.bytes_progress("Unsealing", size_of(source)) as progress:
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
        if as_json:
            console.print_json([{"file": entry.path, **asdict(entry.unsealed)} for entry in entries])
        else:
            bound = [(entry.path, entry.unsealed.embedded_path, entry.unsealed.size) for entry in entries]
            console.print_table(("FILE", "BOUND TO", "SIZE"), bound)
    elif as_json:
        console.print_json(asdict(found))
    else:
        console.out.print(f"Unsealed {found.size} bytes to {destination}; bound to the path {found.embedded_path}.")
