"""The workspace's plaintext models, as SavedModels: ``owner/models/NAME/VERSION``."""

from collections.abc import Callable
from pathlib import Path

from sealserve.deployment import Deployment
from sealserve.errors import InputError
from sealserve.model.convert import ImportedModel, import_model
from sealserve.workspace import Workspace


class ModelPathMissingError(InputError):
    """The deployment does not say where its model is."""

    code = "model.no-path"


class ModelNotImportedError(InputError):
    """The deployment's model is not in the workspace yet."""

    code = "model.not-imported"


def servable_folder(workspace: Workspace, deployment: Deployment) -> Path:
    """Return the folder of the deployment's model in the workspace.

    Raises:
        ModelNotImportedError: It is not there yet.
    """
    folder = _place(workspace, deployment)
    if not folder.is_dir():
        raise ModelNotImportedError(
            f"The model {deployment.model.name}, version {deployment.model.version}, is not in the workspace.",
            hint="`sealserve model convert` brings it in from model.path.",
        )
    return folder


def is_imported(workspace: Workspace, deployment: Deployment) -> bool:
    """Return whether the deployment's model is in the workspace."""
    return _place(workspace, deployment).is_dir()


def bring_in(
    workspace: Workspace, deployment: Deployment, *, progress: Callable[[str], None] | None = None
) -> ImportedModel:
    """Make the deployment's model, a frozen graph or a SavedModel, a SavedModel of the workspace.

    Raises:
        ModelPathMissingError: ``model.path`` is not set.
        SealserveError: What `sealserve.model.convert.import_model` raises.
    """
    model = deployment.model
    if model.path is None:
        raise ModelPathMissingError(
            "sealserve.toml has no model.path.", hint="Set it to your frozen graph (.pb) or SavedModel folder."
        )
    workspace.create()
    return import_model(
        model.path,
        workspace.owner.models,
        name=model.name,
        version=model.version,
        inputs=model.inputs,
        outputs=model.outputs,
        progress=progress,
    )


def _place(workspace: Workspace, deployment: Deployment) -> Path:
    return workspace.owner.models / deployment.model.name / str(deployment.model.version)
