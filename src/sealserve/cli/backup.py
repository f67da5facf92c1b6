"""``sealserve backup``: write the owner's workspace to one encrypted file."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.owner import backup as backups

app = Verbs()


@app.command()
def backup(
    context: Context,
    destination: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Backup file to create (mode 0600)")],
    without_models: Annotated[
        bool, typer.Option("--without-models", help="Do not include the plaintext models")
    ] = False,
    without_releases: Annotated[
        bool, typer.Option("--without-releases", help="Do not include the releases; their keys are still included")
    ] = False,
    force: options.Force = False,
) -> None:
    """Write the owner's workspace to one encrypted file, without the master key.

    The backup can be opened only with the master key, or with the key service in [keystore]. Store a copy of
    owner/master.key apart from the backup. The broker can run during the backup.
    """
    workspace = context.workspace
    with console.bytes_progress("Backing up", console.size_of(workspace.owner.root)) as progress:
        made = backups.back_up(
            workspace,
            destination,
            now=datetime.now(UTC),
            models=not without_models,
            releases=not without_releases,
            overwrite=force,
            progress=progress,
        )
    context.show(
        {"file": str(destination), "created": made.created.isoformat(), "files": made.files, "size": made.size},
        f"Wrote {destination}: {made.files} files, {made.size / 1e6:.1f} MB, encrypted.",
    )
    if workspace.owner.master_key.is_file():
        context.say(
            f"The backup does not contain {workspace.owner.master_key}, but can be opened only with this key: store a "
            "copy of the key apart from the backup."
        )
