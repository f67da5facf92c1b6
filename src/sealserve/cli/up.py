"""``sealserve up``: start the deployment."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.context import Context
from sealserve.cli.first_steps import prepare
from sealserve.cli.interruption import starting
from sealserve.cli.live_view import live_view
from sealserve.cli.part_table import show_parts
from sealserve.cli.verbs import Verbs
from sealserve.cluster import targets
from sealserve.cluster.target import Role, RollingTarget, Target, TargetUnsupportedError
from sealserve.deployment import Deployment
from sealserve.owner import provisioning, releases
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace

app = Verbs()


@app.command()
def up(
    context: Context,
    target: options.Target = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, show_default="target.replicas", help="How many enclaves serve.")
    ] = None,
    release: Annotated[
        str | None, typer.Option("--release", "-r", help="A release's name or folder.", show_default="the newest")
    ] = None,
    role: Annotated[
        Role,
        typer.Option("--role", help="all: this machine is the owner's and the host's; host: the broker is elsewhere."),
    ] = Role.ALL,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the release that was served before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change where it runs, as a diff.")
    ] = False,
) -> None:
    """Start what does not run: broker, enclaves, NGINX. What is missing before that is made first."""
    workspace, described = context.workspace, context.deployment
    kind = target or described.target.kind
    count = replicas or described.target.replicas
    targets.check_replicas(workspace, described, kind, count)
    workspace.create()  # what was removed on purpose, such as the host's folder, is made again
    Owner.open(workspace).publish_key()

    def watched() -> Target:
        return targets.open_target(workspace, described, kind, role=role)

    with live_view("Starting", watched, for_programs=context.as_json) as tell:
        opened = targets.open_target(workspace, described, kind, role=role, tell=tell)
        if rollback:
            release = _rolling(opened, "--rollback").previous_release()
        with (
            contextlib.nullcontext() if dry_run else starting(workspace, kind, tell=tell, for_programs=context.as_json)
        ):
            if role is Role.ALL:
                prepare(workspace, described, tell=tell)
            shipped = (workspace.owner if role is Role.ALL else workspace.host).releases
            folder = releases.find(shipped, release)
            if dry_run:
                difference = _rolling(opened, "--dry-run").difference(folder, count)
            else:
                if rollback and role is Role.ALL:
                    _bring_back(workspace, described, folder)
                replaced = opened.up(folder, count)
    if dry_run:
        console.out.print(difference or "Nothing would change.\n", end="")
        return
    if role is Role.ALL:
        _end_replaced(workspace, described, replaced, by=folder)
    show_parts(context, opened.status())


def _bring_back(workspace: Workspace, described: Deployment, folder: Path) -> None:
    if provisioning.bring_back(workspace, described, folder, now=datetime.now(UTC)):
        console.say(f"{folder.name} was draining, and is active again.")


def _end_replaced(workspace: Workspace, described: Deployment, replaced: Sequence[str], *, by: Path) -> None:
    """Let the releases end that ``by`` has replaced, and warn if it ends itself."""
    for retired in provisioning.retire(workspace, described, replaced, by=by, now=datetime.now(UTC)):
        deadline = retired.deadline.isoformat() if retired.deadline else "it is revoked"
        console.say(
            f"{retired.name} is draining: restarts and a roll-back get its key until {deadline}. "
            f"`sealserve broker revoke {retired.name}` ends it at once."
        )
    if (until := provisioning.draining_until(workspace, by)) is not None:
        console.warn(
            f"{by.name} is draining: none of its replicas starts after {until.isoformat()}. "
            f"`sealserve broker allow --reactivate {by.name}` makes it active again."
        )


def _rolling(target: Target, option: str) -> RollingTarget:
    if not isinstance(target, RollingTarget):
        raise TargetUnsupportedError(f"This target knows no {option}.", hint="kubernetes does.")
    return target
