"""Checks the broker's certificate in the workspace as a running broker checks it."""

from datetime import datetime

from sealserve.broker.server_identity import BrokerCertificate, check_replacement
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner.certificates import broker_certificate, broker_certificate_files
from sealserve.workspace import Workspace


def names_of(deployment: Deployment) -> tuple[str, ...]:
    """Return the names and addresses by which enclaves reach the broker, which its certificate must contain."""
    return deployment.broker.name, deployment.broker.address


def state_of(workspace: Workspace, deployment: Deployment, *, now: datetime) -> BrokerCertificate | None:
    """Check the broker's certificate as a running broker does. Return `None` if the workspace has no certificate.

    Args:
        workspace: The owner's workspace.
        deployment: Supplies the broker's names.
        now: The time of the check.
    """
    if not any(path.exists() for path in broker_certificate_files(workspace)):
        return None
    try:
        presented = check_replacement(broker_certificate(workspace), names_of(deployment), now)
    except SealserveError as error:
        return BrokerCertificate(ends=None, problem=f"[{error.code}] {error.message}")
    return BrokerCertificate(ends=presented.ends, problem=None)
