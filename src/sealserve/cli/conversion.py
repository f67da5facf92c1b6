"""Converting models again whose sources changed: what `model convert` and `release build` share."""

from collections.abc import Callable, Sequence

from sealserve.cli import console
from sealserve.deployment import Deployment, ModelSection
from sealserve.owner import models
from sealserve.workspace import Workspace


def convert_again(workspace: Workspace, described: Deployment, *, say: Callable[[str], None]) -> Sequence[ModelSection]:
    """Replace the copies of the models whose sources or settings changed; return these models.

    A copy whose origin is unknown stays, since a person may have put it there.

    Args:
        workspace: The owner's.
        described: What it describes.
        say: Called with a sentence about each model that was converted again, or could not be compared.
    """
    changed = models.stale(workspace, described.models)
    for model in changed:
        with console.quiet_libraries(), console.spinner(f"Converting {model.name}") as tell:
            models.bring_in_again(workspace, model, progress=tell)
        say(f"{model.path} changed: {model.name}, version {model.version}, was converted again.")
    for model in models.unknown(workspace, described.models):
        folder = models.planned_folder(workspace, model)
        say(
            f"{folder} cannot be compared with {model.path}: no record says how it was made. To convert the model "
            "again, remove that folder."
        )
    return changed
