"""``sealserve up``: start the deployment."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve import deployment
from sealserve.cli import console, status
from sealserve.cli.interruption import starting
from sealserve.cli.live_view import live_view
from sealserve.cluster import targets
from sealserve.cluster.target import Role, RollingTarget, Target, TargetUnsupportedError
from sealserve.deployment import Deployment
from sealserve.owner import certificates, models, provisioning, releases
from sealserve.owner.owner import Owner
from sealserve.pki.authority import AuthorityKind
from sealserve.terms import TlsMode
from sealserve.workspace import Workspace

app = typer.Typer(add_completion=False)


@app.command()
def up(
    target: console.Target = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=64, show_default="target.replicas", help="How many enclaves serve.")
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
    directory: console.Directory = console.HERE,
    as_json: console.Json = False,
) -> None:
    """Start what does not run: broker, enclaves, NGINX. What is missing before that is made first."""
    workspace = console.find_workspace(directory)
    described = deployment.read(workspace.deployment_file)
    kind = target or described.target.kind
    workspace.create()  # what was removed on purpose, such as the host's folder, is made again
    Owner.open(workspace).publish_key()

    def watched() -> Target:
        return targets.open_target(workspace, described, kind, role=role)

    with live_view("Starting", watched, for_programs=as_json) as tell:
        opened = targets.open_target(workspace, described, kind, role=role, tell=tell)
        if rollback:
            release = _rolling(opened, "--rollback").previous_release()
        with contextlib.nullcontext() if dry_run else starting(workspace, kind, tell=tell, for_programs=as_json):
            if role is Role.ALL:
                prepare(workspace, described, tell=tell)
            shipped = (workspace.owner if role is Role.ALL else workspace.host).releases
            folder, count = releases.find(shipped, release), replicas or described.target.replicas
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
    status.show(opened, as_json=as_json)


def _bring_back(workspace: Workspace, described: Deployment, folder: Path) -> None:
    if provisioning.bring_back(workspace, described, folder, now=datetime.now(UTC)):
        console.say(f"{folder.name} was draining, and is active again.")


def _end_replaced(workspace: Workspace, described: Deployment, replaced: Sequence[str], *, by: Path) -> None:
    """Let the releases end that ``by`` has replaced, and warn if it ends itself."""
    for retired in provisioning.retire(workspace, described, replaced, by=by, now=datetime.now(UTC)):
        console.say(
            f"{retired.name} is draining: restarts and a roll-back get its key until {retired.deadline}. "
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


def prepare(workspace: Workspace, described: Deployment, *, tell: console.Tell = console.quietly) -> None:
    """Do the owner's steps that were not done yet: model, certificates, release."""
    now = datetime.now(UTC)
    for model in described.models:
        if not models.is_imported(workspace, model):
            tell(f"converting the model {model.name}")
            with console.quiet_libraries():
                models.bring_in(workspace, model)
    if not all((workspace.owner.authorities / kind).exists() for kind in AuthorityKind):
        tell(f"making certificates for {TlsMode(described.service.tls).value} TLS")
        certificates.create_certificates(workspace, described, now=now, first_time=True)
    if not releases.any_in(workspace.owner.releases):
        tell("sealing a release")
        releases.build(workspace, described, now=now, warn=console.warn)
