"""Where the simulated vendor's service, which stands in for Intel's PCS, answers."""

from typing import Final

from sealserve.deployment import Deployment

DEFAULT_PCS_PORT: Final = 8081  # a PCCS's


def pcs_url(deployment: Deployment) -> str:
    """Return where the simulated vendor's service answers."""
    return deployment.broker.collateral_url or f"http://127.0.0.1:{DEFAULT_PCS_PORT}"
