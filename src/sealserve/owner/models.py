"""The workspace's plaintext models, as SavedModels: ``owner/models/NAME/VERSION``.

numpy starts threads when it is imported. The launcher of a simulated enclave imports this module, and must have a
single thread to enter a mount namespace. So the functions that need numpy import it.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Final

from sealserve.deployment import ModelSection
from sealserve.host.processor import read_processor
from sealserve.model.codes import ModelCode
from sealserve.model.convert import OTHER_VERSION, ImportedModel, import_model
from sealserve.model.lint import LintedModel, lint
from sealserve.model.saved_model import check_servable
from sealserve.owner.codes import OwnerCode
from sealserve.owner.model_record import (
    digest_of,
    find_record,
    forget,
    is_stale,
    optimization_of,
    record,
    sealed_digests,
    state_of,
)
from sealserve.terms import Precision, ServerKind
from sealserve.whole_folder import Staging, refuse_existing, staging
from sealserve.workspace import Workspace

_OPTIMIZED: Final = ".optimized"
"""Folder for the faster form, beside the converted model, whose name never begins with a dot."""


def servable_folder(workspace: Workspace, model: ModelSection) -> Path:
    """Return the folder of one of the deployment's models in the workspace.

    Raises:
        InputError: `model.not-imported`: The model was not converted yet.
    """
    folder = planned_folder(workspace, model)
    if not folder.is_dir():
        raise OwnerCode.MODEL_NOT_IMPORTED.error(
            f"The model {model.name}, version {model.version}, is not in the workspace yet.",
            hint="Convert it from model.path: `sealserve model convert`.",
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
    warn: Callable[[str], None] | None = None,
) -> ImportedModel:
    """Convert a model of the deployment, a frozen graph or a SavedModel, to a SavedModel in the workspace.

    The digests of the source are recorded, so that a later export to the same path is detected.

    Args:
        workspace: The owner's workspace.
        model: The model.
        keep_frozen: Keep large constants of a frozen graph as constants.
        replace: Replace an existing copy. It stays in place until the new copy is complete.
        progress: Called with a description of each step before it starts.
        warn: Called with each warning about the model's optimization.

    Raises:
        InputError: `model.no-path`: ``model.path`` is not set.
        InputError: `model.missing`: ``model.path`` does not exist.
        InputError: `model.source-changed`: The source or ``model.optimize_inputs`` changed during the conversion.
        SealserveError: As `sealserve.model.convert.import_model` and `sealserve.model.optimization.optimize.optimize`.
    """
    if model.path is None:
        raise OwnerCode.MODEL_NO_PATH.error(
            f"The path of the model {model.name} is not set in sealserve.toml.",
            hint="Set its path to your frozen graph (.pb) or SavedModel folder.",
        )
    workspace.create()
    if not model.path.exists():
        raise ModelCode.MISSING.error(
            f"The model {model.name} does not exist: expected a frozen graph or SavedModel folder at {model.path}.",
            hint="Correct the model's path in sealserve.toml.",
        )
    # 1. Compute the digests of the source and of the inputs first, to detect below whether they change during the
    #    conversion.
    source, state, settings = digest_of(model.path), state_of(model.path), optimization_of(model)
    # 2. Convert beside the final place, so that an interrupted or refused conversion leaves nothing.
    destination = planned_folder(workspace, model)
    if not replace:
        refuse_existing(destination, hint=OTHER_VERSION)
    with staging(workspace.owner.models, f"{model.name}-{model.version}") as staged:
        imported = import_model(
            model.path,
            staged.folder,
            name=model.name,
            version=model.version,
            inputs=model.inputs,
            outputs=model.outputs,
            tags=model.tags,
            keep_frozen=keep_frozen,
            signature=model.signature,
            progress=progress,
        )
        if model.warm_up:
            from sealserve.owner.warm_up import add_warm_up  # noqa: PLC0415  # imports numpy

            add_warm_up(imported.folder, imported.info, name=model.name)
        if model.optimize is not None:
            folder = staged.folder / _OPTIMIZED / str(model.version)
            imported = _optimized(
                model, model.path, imported, folder, precision=model.optimize, progress=progress, warn=warn
            )
        changed = model.path if digest_of(model.path) != source else None
        if changed is None and optimization_of(model) != settings:
            changed = model.optimize_inputs
        if changed is not None:
            raise OwnerCode.MODEL_SOURCE_CHANGED.error(
                f"The model {model.name} was not converted: {changed} changed during the conversion.",
                hint="Wait until the export has ended, then run the command again.",
            )
        # 3. Publish the copy. Remove the old record first, so that it is never combined with the new copy.
        forget(workspace, model)
        destination.parent.mkdir(exist_ok=True)
        Staging(imported.folder).replace(destination)
        imported = replace_fields(imported, folder=destination, info=check_servable(destination))
    record(
        workspace,
        model,
        source=source,
        source_state=state,
        folder=imported.folder,
        keep_frozen=keep_frozen,
        optimization=settings,
    )
    return imported


def _optimized(
    model: ModelSection,
    path: Path,
    imported: ImportedModel,
    folder: Path,
    *,
    precision: Precision,
    progress: Callable[[str], None] | None,
    warn: Callable[[str], None] | None,
) -> ImportedModel:
    """Write the faster form of a converted model to ``folder``, and return it instead of the model.

    Messages and the record name the owner's model at ``path``, and not its converted copy.
    """
    from sealserve.model.optimization.acceptance import Thresholds  # noqa: PLC0415  # imports numpy
    from sealserve.model.optimization.given_inputs import read_arrays  # noqa: PLC0415
    from sealserve.model.optimization.instructions import Instructions  # noqa: PLC0415
    from sealserve.model.optimization.optimize import Inputs, optimize  # noqa: PLC0415
    from sealserve.model.optimization.origin import SETTINGS, Origin  # noqa: PLC0415
    from sealserve.model.optimization.report import digest_of_model, find_report  # noqa: PLC0415

    if path.is_dir():
        find_report(path)  # an error about a damaged record names the owner's file
    here = Instructions.of(read_processor().flags)
    report = optimize(
        imported.folder,
        folder,
        precision=precision,
        inputs=Inputs(given={} if model.optimize_inputs is None else read_arrays(model.optimize_inputs)),
        thresholds=Thresholds(
            top1=model.optimize_min_top1,
            top5=model.optimize_min_top5,
            difference=model.optimize_max_difference,
            relative_difference=model.optimize_max_relative_difference,
        ),
        origin=Origin(name=str(path), digest=digest_of_model(path), options=SETTINGS),
        instructions=here,
        progress=progress,
    )
    for sentence in report.warnings(here):
        (warn or (lambda _: None))(f"{model.name} version {model.version}: {sentence}")
    return replace_fields(imported, folder=folder, info=check_servable(folder))


def bring_in_again(
    workspace: Workspace,
    model: ModelSection,
    *,
    progress: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> ImportedModel:
    """Convert a model again whose source or settings changed. The choice for large constants stays as it was."""
    made = find_record(workspace, model)
    keep_frozen = made is not None and made.keep_frozen
    return bring_in(workspace, model, keep_frozen=keep_frozen, replace=True, progress=progress, warn=warn)


def stale(workspace: Workspace, models: Iterable[ModelSection]) -> tuple[ModelSection, ...]:
    """Return the models whose sources or settings changed since they were converted."""
    return tuple(
        model
        for model in models
        if is_imported(workspace, model) and is_stale(workspace, model, planned_folder(workspace, model))
    )


def unknown(workspace: Workspace, models: Iterable[ModelSection]) -> tuple[ModelSection, ...]:
    """Return the models whose copies cannot be compared with their sources.

    An earlier version created these copies, or a person created or changed them.
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
        workspace: The owner's workspace.
        models: The models.
        server: The server that will load the models. TensorFlow Serving's binary has operations of further libraries.
        warn: Called with each operation that only ``dangerous_operations`` allows, and with each problem that would
            make the first request fail.

    Raises:
        InputError: `model.not-imported`: A model was not converted into the workspace yet.
        RefusedOperationError: A model has operations that are not allowed.
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
            tell(f"dangerous: {model.name} version {model.version}: {allowed} (allowed by dangerous_operations)")
        for sentence in found.warnings:
            tell(f"{model.name} version {model.version}: {sentence}")
        linted.append(found)
    return tuple(linted)


def planned_folder(workspace: Workspace, model: ModelSection) -> Path:
    """Return the folder of one of the deployment's models in the workspace. It may not exist yet."""
    return workspace.owner.models / model.name / str(model.version)
