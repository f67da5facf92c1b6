"""``sealserve backup``: the owner's workspace in one sealed file."""

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
    destination: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file that appears.")],
    without_models: Annotated[bool, typer.Option("--without-models", help="Leave the plaintext models out.")] = False,
    without_releases: Annotated[
        bool, typer.Option("--without-releases", help="Leave the releases out; their keys are in it all the same.")
    ] = False,
    force: options.Force = False,
) -> None:
    """Write the owner's workspace to one sealed file, without the master key: keep a copy of that elsewhere.

    The broker may run meanwhile.
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
        f"Wrote {destination}: {made.files} files, {made.size / 1e6:.1f} MB, sealed.",
    )
    if workspace.owner.master_key.is_file():
        context.say(f"It opens with {workspace.owner.master_key}, which is not in it: keep a copy apart from it.")
