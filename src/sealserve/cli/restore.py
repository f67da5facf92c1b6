"""``sealserve restore``: the owner's workspace from a backup."""

from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.cli.seal import size_of
from sealserve.owner.restore import restore as restore_workspace
from sealserve.workspace import Workspace

app = typer.Typer(add_completion=False)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `sealserve backup` wrote.")],
    master_key: Annotated[
        Path | None,
        typer.Option("--master-key", help="Your copy of owner/master.key.", show_default="the service in [keystore]"),
    ] = None,
    directory: console.Directory = console.HERE,
    as_json: console.Json = False,
) -> None:
    """Bring the owner's workspace back from a backup, whole or not at all, into a folder that has none."""
    workspace = Workspace(directory.resolve())
    with console.bytes_progress("Restoring", size_of(source)) as progress:
        restored = restore_workspace(workspace, source, master_key=master_key, progress=progress)
    if as_json:
        console.print_json({
            "folder": str(workspace.root), "created": restored.created.isoformat(), "files": restored.files,
            "size": restored.size,
        })  # fmt: skip
        return
    console.out.print(f"Restored {workspace.root}: {restored.files} files, {restored.size / 1e6:.1f} MB.")
    console.warn(
        f"The broker's database is that of {restored.created:%Y-%m-%d %H:%M} UTC. Before it runs again, drain and "
        "revoke what you have drained and revoked since: `sealserve broker releases` lists what is active."
    )
