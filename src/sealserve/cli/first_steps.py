"""The owner's steps that `up` and `render` take before there is anything to start."""

from datetime import UTC, datetime

from sealserve.cli import console
from sealserve.deployment import Deployment
from sealserve.owner import certificates, models, releases
from sealserve.pki.authority import AuthorityKind
from sealserve.terms import TlsMode
from sealserve.workspace import Workspace


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
