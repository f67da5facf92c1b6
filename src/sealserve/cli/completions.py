"""Values that the shell completes: names that the workspace knows. Without a workspace there are none."""

from datetime import UTC, datetime
from pathlib import Path

import typer

from sealserve import deployment, workspace
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner import users
from sealserve.owner.users import UserState


def complete_label(context: typer.Context, incomplete: str) -> list[str]:
    """Return the labels of the deployment's models that begin like ``incomplete``."""
    found = _deployment(context)
    labels = {label for model in found.models for label in model.labels} if found else set()
    return sorted(label for label in labels if label.startswith(incomplete))


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the deployment's models that begin like ``incomplete``."""
    found = _deployment(context)
    names = {model.name for model in found.models} if found else set()
    return sorted(name for name in names if name.startswith(incomplete))


def complete_user(context: typer.Context, incomplete: str) -> list[str]:
    """Return the users that begin like ``incomplete``."""
    try:
        place = workspace.find(Path(context.params.get("directory") or "."))
        found = users.list_users(place, now=datetime.now(UTC))
    except SealserveError:
        return []
    return [user.name for user in found if user.name.startswith(incomplete) and user.state != UserState.REVOKED]


def _deployment(context: typer.Context) -> Deployment | None:
    try:
        place = workspace.find(Path(context.params.get("directory") or "."))
        return deployment.read(place.deployment_file)
    except SealserveError:  # the verb reports it, when it runs
        return None
