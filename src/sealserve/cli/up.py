"""``sealserve up``: start the deployment."""

import contextlib
from datetime import UTC, datetime
from typing import Annotated

import typer

from sealserve import deployment
from sealserve.cli import console, status
from sealserve.cli.interruption import starting
from sealserve.cli.live_view import live_view
from sealserve.cluster import targets
from sealserve.cluster.target import Role, RollingTarget, Target, TargetUnsupportedError
from sealserve.deployment import Deployment, TlsMode
from sealserve.operations import certificates, models, releases
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

    def watched() -> Target:
        return targets.open_target(workspace, described, kind, role=role)

    with live_view("Starting", watched, for_programs=as_json) as tell:
        opened = targets.open_target(workspace, described, kind, role=role, tell=tell)
        if rollback:
            release = _rolling(opened, "--rollback").previous_release()
        with contextlib.nullcontext() if dry_run else starting(workspace, kind, tell=tell):
            if role is Role.ALL:
                prepare(workspace, described, tell=tell)
            shipped = (workspace.owner if role is Role.ALL else workspace.host).releases
            folder, count = releases.find(shipped, release), replicas or described.target.replicas
            if dry_run:
                difference = _rolling(opened, "--dry-run").difference(folder, count)
            else:
                opened.up(folder, count)
    if dry_run:
        console.out.print(difference or "Nothing would change.\n", markup=False, end="")
        return
    status.show(opened, as_json=as_json)


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
            models.bring_in(workspace, model)
    if not (workspace.owner.authorities / "service").exists():
        tell(f"making certificates for {TlsMode(described.service.tls).value} TLS")
        certificates.create_certificates(workspace, described, now=now)
    if not releases.any_in(workspace.owner.releases):
        tell("sealing a release")
        releases.build(workspace, described, now=now, warn=console.warn)
