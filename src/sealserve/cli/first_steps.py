"""The owner's steps that `up` and `render` take before there is anything to start."""

import contextlib
from datetime import UTC, datetime

from sealserve.cli import console
from sealserve.deployment import Deployment
from sealserve.owner.first_steps import missing_steps
from sealserve.workspace import Workspace


def take_first_steps(
    workspace: Workspace, described: Deployment, *, rebuild: bool = False, tell: console.Tell = console.quietly
) -> None:
    """Do the owner's first steps that were not done yet: models, certificates, a release.

    Args:
        workspace: The owner's.
        described: What it describes.
        rebuild: Whether a new release is wanted although there is one.
        tell: Called with each step.
    """
    for step in missing_steps(workspace, described, now=datetime.now(UTC), warn=console.warn, rebuild=rebuild):
        tell(step.text)
        with console.quiet_libraries() if step.runs_tensorflow else contextlib.nullcontext():
            step.run()
