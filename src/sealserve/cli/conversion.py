"""Convert models again after their sources changed. `model convert` and `release build` use this module."""

from collections.abc import Callable, Sequence

from sealserve.cli import console
from sealserve.deployment import Deployment, ModelSection
from sealserve.owner import models
from sealserve.workspace import Workspace


def convert_again(workspace: Workspace, described: Deployment, *, say: Callable[[str], None]) -> Sequence[ModelSection]:
    """Convert the models again whose sources or settings changed, and return these models.

    A copy of unknown origin is not replaced, because a person may have put it there.

    Args:
        workspace: The owner's workspace.
        described: The deployment that ``sealserve.toml`` describes.
        say: Called with a sentence about each model that was converted again or could not be compared.
    """
    changed = models.stale(workspace, described.models)
    for model in changed:
        with console.quiet_libraries(), console.spinner(f"Converting {model.name}") as tell:
            models.bring_in_again(workspace, model, progress=tell, warn=console.warn)
        say(f"Converted {model.name}, version {model.version}, again, because {model.path} or its settings changed.")
    for model in models.unknown(workspace, described.models):
        folder = models.planned_folder(workspace, model)
        say(
            f"{folder} cannot be compared with {model.path}, because no record of its conversion exists. To convert "
            f"the model again, remove the folder {folder}."
        )
    return changed
