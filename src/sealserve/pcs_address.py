"""The address of the simulated vendor's service, which stands in for Intel's PCS."""

from sealserve.deployment import Deployment
from sealserve.tcp_ports import SIMULATED_PCS_PORT


def pcs_url(deployment: Deployment) -> str:
    """Return the base URL of the simulated vendor's service."""
    return deployment.broker.collateral_url or f"http://127.0.0.1:{SIMULATED_PCS_PORT}"
