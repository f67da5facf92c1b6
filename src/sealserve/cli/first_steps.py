"""The owner's steps that `up` and `render` carry out before a deployment can start."""

import contextlib
from datetime import UTC, datetime

from sealserve.cli import console
from sealserve.deployment import Deployment
from sealserve.owner.first_steps import missing_steps
from sealserve.workspace import Workspace


def take_first_steps(
    workspace: Workspace, described: Deployment, *, rebuild: bool = False, tell: console.Tell = console.quietly
) -> None:
    """Carry out the owner's steps that are still missing: models, certificates, a release.

    Args:
        workspace: The owner's workspace.
        described: The deployment that ``sealserve.toml`` describes.
        rebuild: Build a new release even if one exists.
        tell: Called with the description of each step before it starts.
    """
    for step in missing_steps(workspace, described, now=datetime.now(UTC), warn=console.warn, rebuild=rebuild):
        tell(step.text)
        with console.quiet_libraries() if step.runs_tensorflow else contextlib.nullcontext():
            step.run()
