"""Reading ``sealserve.toml`` for a command."""

from sealserve import deployment
from sealserve.cli import console
from sealserve.workspace import Workspace


def read_deployment(workspace: Workspace) -> deployment.Deployment:
    """Return the deployment of a workspace, and warn about keys in its file that have new names."""
    return deployment.read(workspace.deployment_file, warn=console.warn)
