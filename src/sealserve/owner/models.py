"""The workspace's plaintext models, as SavedModels: ``owner/models/NAME/VERSION``."""

from collections.abc import Callable, Iterable
from pathlib import Path

from sealserve.deployment import ModelSection
from sealserve.model.convert import ImportedModel, import_model
from sealserve.model.lint import LintedModel, lint
from sealserve.owner.codes import OwnerCode
from sealserve.terms import ServerKind
from sealserve.workspace import Workspace


def servable_folder(workspace: Workspace, model: ModelSection) -> Path:
    """Return the folder of one of the deployment's models in the workspace.

    Raises:
        InputError: `model.not-imported`: It is not there yet.
    """
    folder = planned_folder(workspace, model)
    if not folder.is_dir():
        raise OwnerCode.MODEL_NOT_IMPORTED.error(
            f"The model {model.name}, version {model.version}, is not in the workspace.",
            hint="`sealserve model convert` brings it in from model.path.",
        )
    return folder


def is_imported(workspace: Workspace, model: ModelSection) -> bool:
    """Return whether one of the deployment's models is in the workspace."""
    return planned_folder(workspace, model).is_dir()


def bring_in(
    workspace: Workspace,
    model: ModelSection,
    *,
    keep_frozen: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ImportedModel:
    """Make one of the deployment's models, a frozen graph or a SavedModel, a SavedModel of the workspace.

    Args:
        workspace: The owner's.
        model: Which one.
        keep_frozen: Whether a frozen graph's large constants stay constants.
        progress: Called at the start of each step.

    Raises:
        InputError: `model.no-path`: ``model.path`` is not set.
        SealserveError: What `sealserve.model.convert.import_model` raises.
    """
    if model.path is None:
        raise OwnerCode.MODEL_NO_PATH.error(
            f"sealserve.toml does not say where the model {model.name} is.",
            hint="Set its path to your frozen graph (.pb) or SavedModel folder.",
        )
    workspace.create()
    return import_model(
        model.path,
        workspace.owner.models,
        name=model.name,
        version=model.version,
        inputs=model.inputs,
        outputs=model.outputs,
        tags=model.tags,
        keep_frozen=keep_frozen,
        progress=progress,
    )


def check(
    workspace: Workspace,
    models: Iterable[ModelSection],
    *,
    server: ServerKind = ServerKind.EMBEDDED,
    warn: Callable[[str], None] | None = None,
) -> tuple[LintedModel, ...]:
    """Lint the workspace's models, as `sealserve.model.lint.lint` does.

    Args:
        workspace: The owner's.
        models: Which ones.
        server: The server that is to load them: TensorFlow Serving's binary has operations of further libraries.
        warn: Called with each operation that is there because ``dangerous_operations`` allows it, and with what will
            fail at the first request.

    Raises:
        InputError: `model.not-imported`: One is not in the workspace yet.
        RefusedOperationError: One has operations that nothing allows.
    """
    tell = warn or (lambda _: None)
    linted = []
    for model in models:
        found = lint(
            servable_folder(workspace, model),
            dangerous_operations=model.dangerous_operations,
            custom_operations=server is ServerKind.TENSORFLOW_SERVING,
        )
        for allowed in found.allowed:
            tell(f"dangerous: {model.name} version {model.version} has {allowed}; dangerous_operations allows it")
        for sentence in found.warnings:
            tell(f"{model.name} version {model.version}: {sentence}")
        linted.append(found)
    return tuple(linted)


def planned_folder(workspace: Workspace, model: ModelSection) -> Path:
    """Return the folder of one of the deployment's models in the workspace, whether it exists or not."""
    return workspace.owner.models / model.name / str(model.version)
