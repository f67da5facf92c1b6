"""``sealserve up``: start the deployment."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from sealserve import deployment
from sealserve.cli import console, status
from sealserve.cluster.local import LocalTarget, TargetUnsupportedError
from sealserve.deployment import Deployment, TlsMode
from sealserve.operations import certificates, models, releases
from sealserve.workspace import Workspace

app = typer.Typer(add_completion=False)

Target = Annotated[str | None, typer.Option("--target", "-t", show_default="that of sealserve.toml", help="local")]


@app.command()
def up(
    target: Target = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=64, show_default="target.replicas", help="How many enclaves serve.")
    ] = None,
    release: Annotated[
        str | None, typer.Option("--release", "-r", help="A release's name or folder.", show_default="the newest")
    ] = None,
    directory: console.Directory = console.HERE,
    as_json: console.Json = False,
) -> None:
    """Start what does not run: broker, enclaves, NGINX. What is missing before that is made first."""
    workspace = console.find_workspace(directory)
    described = deployment.read(workspace.deployment_file)
    with console.spinner("Starting") as tell:
        local = open_target(workspace, described, target, tell=tell)
        prepare(workspace, described, tell=tell)
        local.up(releases.find(workspace.owner.releases, release), replicas or described.target.replicas)
    status.show(local, as_json=as_json)


def open_target(
    workspace: Workspace, described: Deployment, name: str | None, *, tell: console.Tell = console.quietly
) -> LocalTarget:
    """Return the target that the deployment or the command line names."""
    kind = name or described.target.kind
    if kind != "local":
        raise TargetUnsupportedError(f"The target {kind!r} is not known here.", hint="Known: local.")
    return LocalTarget(workspace, described, tell=tell)


def prepare(workspace: Workspace, described: Deployment, *, tell: console.Tell = console.quietly) -> None:
    """Do the owner's steps that were not done yet: model, certificates, release."""
    now = datetime.now(UTC)
    if not models.is_imported(workspace, described):
        tell("converting the model")
        models.bring_in(workspace, described)
    if not (workspace.owner.authorities / "service").exists():
        tell(f"making certificates for {TlsMode(described.service.tls).value} TLS")
        certificates.create_certificates(workspace, described, now=now)
    if not releases.any_in(workspace.owner.releases):
        tell("sealing a release")
        releases.build(workspace, described, now=now)
