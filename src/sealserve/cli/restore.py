"""``sealserve restore``: restore the owner's workspace from a backup."""

from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.owner.broker_database import database_settings
    from sealserve.owner.restore import restore as restore_workspace
    from sealserve.workspace import Workspace

app = Verbs()


@app.command()
def restore(
    context: Context,
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="File from `sealserve backup`")],
    master_key: Annotated[
        Path | None,
        typer.Option("--master-key", help="Your copy of owner/master.key", show_default="the service in [keystore]"),
    ] = None,
) -> None:
    """Restore the owner's workspace from a backup, into a folder without a workspace.

    If the restore fails, the folder is not changed.
    """
    workspace = Workspace(context.directory.resolve())
    with console.bytes_progress("Restoring", console.size_of(source)) as progress:
        restored = restore_workspace(workspace, source, master_key=master_key, progress=progress)
    context.show(
        {"folder": str(workspace.root), "created": restored.created.isoformat(), "files": restored.files,
         "size": restored.size},
        f"Restored {workspace.root}: {restored.files} files, {restored.size / 1e6:.1f} MB.",
    )  # fmt: skip
    if database_settings(workspace).url is not None:
        context.say(
            "Next: set database.url to an empty database, and run `sealserve broker import` to copy the rows to it."
        )
    if not context.as_json:
        console.warn(
            f"The broker's database has the state of {restored.created:%Y-%m-%d %H:%M} UTC. Before you start the "
            "broker, repeat each drain and revocation since that time. List the releases: `sealserve broker releases`."
        )
