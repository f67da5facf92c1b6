"""The workspace's plaintext models, as SavedModels: ``owner/models/NAME/VERSION``."""

import contextlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace as replace_fields
from pathlib import Path

from sealserve.deployment import ModelSection
from sealserve.model.codes import ModelCode
from sealserve.model.convert import ImportedModel, import_model
from sealserve.model.lint import LintedModel, lint
from sealserve.model.saved_model import check_servable
from sealserve.owner.codes import OwnerCode
from sealserve.owner.model_record import digest_of, find_record, forget, is_stale, record, sealed_digests, state_of
from sealserve.terms import ServerKind
from sealserve.whole_folder import Staging, staging
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
    replace: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ImportedModel:
    """Make one of the deployment's models, a frozen graph or a SavedModel, a SavedModel of the workspace.

    What it was made from is recorded, so that a source that is exported again is noticed.

    Args:
        workspace: The owner's.
        model: Which one.
        keep_frozen: Whether a frozen graph's large constants stay constants.
        replace: Whether a copy that exists is replaced. It stays until the new one is whole.
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
    if not model.path.exists():
        raise ModelCode.MISSING.error(f"There is no model at {model.path}.")
    # 1. Take the digest of the source first: a source that changes during the conversion is noticed below.
    source, state = digest_of(model.path), state_of(model.path)
    # 2. Convert beside the copy that exists, if it is to be replaced.
    destination = planned_folder(workspace, model)
    with contextlib.ExitStack() as stack:
        staged = None
        if replace and destination.is_dir():
            staged = stack.enter_context(staging(workspace.owner.models, f"{model.name}-{model.version}"))
        imported = import_model(
            model.path,
            workspace.owner.models if staged is None else staged.folder,
            name=model.name,
            version=model.version,
            inputs=model.inputs,
            outputs=model.outputs,
            tags=model.tags,
            keep_frozen=keep_frozen,
            progress=progress,
        )
        if digest_of(model.path) != source:
            if staged is None:
                shutil.rmtree(imported.folder)
            raise OwnerCode.MODEL_SOURCE_CHANGED.error(
                f"{model.path} changed while {model.name} was converted.",
                hint="Wait until the export has ended, then run the command again.",
            )
        # 3. Publish it. Between the two steps there is no record, so the copy never passes for another source's.
        if staged is not None:
            forget(workspace, model)
            Staging(imported.folder).replace(destination)
            imported = replace_fields(imported, folder=destination, info=check_servable(destination))
    record(workspace, model, source=source, source_state=state, folder=imported.folder, keep_frozen=keep_frozen)
    return imported


def bring_in_again(
    workspace: Workspace, model: ModelSection, *, progress: Callable[[str], None] | None = None
) -> ImportedModel:
    """Replace the copy of a model whose source or settings changed. Large constants are treated as before."""
    made = find_record(workspace, model)
    keep_frozen = made is not None and made.keep_frozen
    return bring_in(workspace, model, keep_frozen=keep_frozen, replace=True, progress=progress)


def stale(workspace: Workspace, models: Iterable[ModelSection]) -> tuple[ModelSection, ...]:
    """Return the models whose copies in the workspace are not what their sources and settings describe now."""
    return tuple(
        model
        for model in models
        if is_imported(workspace, model) and is_stale(workspace, model, planned_folder(workspace, model))
    )


def unknown(workspace: Workspace, models: Iterable[ModelSection]) -> tuple[ModelSection, ...]:
    """Return the models whose copies cannot be compared with their sources.

    An earlier version made these copies, or a person put them there or changed them.
    """
    return tuple(
        model
        for model in models
        if model.path is not None
        and is_imported(workspace, model)
        and sealed_digests(workspace, model, planned_folder(workspace, model)).source is None
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
