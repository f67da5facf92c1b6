"""A record of the conversion of each model in the workspace. It shows whether the source was exported again since.

The record contains the SHA-256 of the source and of the converted copy, and a digest of the size and time of each file.
While sizes and times are unchanged, a command that only displays information does not read gigabytes again. Commands
that build a release always read the files.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.canonical_document import canonical_json
from sealserve.deployment import ModelSection
from sealserve.errors import SealserveError
from sealserve.file_digest import sha256_of
from sealserve.regular_file import read_regular
from sealserve.terms import Precision
from sealserve.workspace import Workspace

CHANGED: Final = "changed"
"""Used instead of a digest for files that differ from their record, if the files are not read."""
_NO_FILE: Final = "0" * 64
"""Used instead of the digest of a file that does not exist. A conversion with this setting fails."""

_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDigests:
    """The state of a model's files.

    Args:
        source: SHA-256 of the model's source, or None if it is unknown.
        content: SHA-256 of the converted copy in the workspace, or None if the copy does not exist.
    """

    source: str | None = None
    content: str | None = None


class OptimizationSettings(BaseModel):
    """The settings of a model's optimization.

    Attributes:
        precision: The setting ``model.optimize``.
        inputs: SHA-256 of the file ``model.optimize_inputs``, or None if the inputs were generated.
        min_top1: The setting ``model.optimize_min_top1``.
        min_top5: The setting ``model.optimize_min_top5``.
        max_difference: The setting ``model.optimize_max_difference``.
        max_relative_difference: The setting ``model.optimize_max_relative_difference``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision
    inputs: _Sha256 | None
    min_top1: float | None
    min_top5: float | None = None
    max_difference: float | None = None
    max_relative_difference: float | None = None


class ModelRecord(BaseModel):
    """The record of a model's conversion.

    Attributes:
        source: SHA-256 of the frozen graph or SavedModel that was converted.
        source_state: Digest of the sizes and times of the source's files.
        content: SHA-256 of the converted copy.
        content_state: Digest of the sizes and times of the copy's files.
        inputs: The setting ``model.inputs`` of the conversion.
        outputs: The setting ``model.outputs`` of the conversion.
        tags: The setting ``model.tags`` of the conversion.
        keep_frozen: Whether large constants stayed constants.
        warm_up: The setting ``model.warm_up`` of the conversion.
        optimization: The settings of the optimization, or None if the model was not optimized.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    source: _Sha256
    source_state: _Sha256
    content: _Sha256
    content_state: _Sha256
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tags: tuple[str, ...]
    keep_frozen: bool
    warm_up: bool = False
    optimization: OptimizationSettings | None = None


def optimization_of(model: ModelSection) -> OptimizationSettings | None:
    """Return the settings with which a model is optimized now, or None."""
    if model.optimize is None:
        return None
    inputs, digest = model.optimize_inputs, None
    if inputs is not None:
        digest = digest_of(inputs) if inputs.is_file() else _NO_FILE
    return OptimizationSettings(
        precision=model.optimize,
        inputs=digest,
        min_top1=model.optimize_min_top1,
        min_top5=model.optimize_min_top5,
        max_difference=model.optimize_max_difference,
        max_relative_difference=model.optimize_max_relative_difference,
    )


def record(
    workspace: Workspace,
    model: ModelSection,
    *,
    source: str,
    source_state: str,
    folder: Path,
    keep_frozen: bool,
    optimization: OptimizationSettings | None,
) -> None:
    """Write the record of a new conversion.

    Args:
        workspace: The owner's workspace.
        model: The model.
        source: SHA-256 of the source.
        source_state: The source's `state_of` before the conversion.
        folder: The converted copy.
        keep_frozen: Whether large constants stayed constants.
        optimization: The `optimization_of` the model before the conversion.
    """
    made = ModelRecord(
        source=source,
        source_state=source_state,
        content=digest_of(folder),
        content_state=state_of(folder),
        inputs=model.inputs,
        outputs=model.outputs,
        tags=model.tags,
        keep_frozen=keep_frozen,
        warm_up=model.warm_up,
        optimization=optimization,
    )
    path = _place(workspace, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, canonical_json(made.model_dump(mode="json")), mode=PRIVATE)


def find_record(workspace: Workspace, model: ModelSection) -> ModelRecord | None:
    """Return the record of a model's conversion, or None if an earlier version or a person created the copy."""
    try:
        return ModelRecord.model_validate_json(read_regular(_place(workspace, model)))
    except (SealserveError, ValidationError):
        return None


def forget(workspace: Workspace, model: ModelSection) -> None:
    """Remove the record of a model, before its copy is replaced."""
    _place(workspace, model).unlink(missing_ok=True)


def sealed_digests(workspace: Workspace, model: ModelSection, folder: Path) -> ModelDigests:
    """Return the digests for a release that seals the workspace's copy of a model now. The files are read.

    The source is the one that was converted, even if another source is at its path now. It is unknown if the copy was
    changed after the conversion.
    """
    content = digest_of(folder)
    made = find_record(workspace, model)
    source = made.source if made is not None and made.content == content else None
    return ModelDigests(source=source, content=content)


def present_digests(
    workspace: Workspace, model: ModelSection, folder: Path, *, trust_state: bool = False
) -> ModelDigests:
    """Return the current digests of the source and of the workspace's copy.

    Args:
        workspace: The owner's workspace.
        model: The model.
        folder: The workspace's copy, which may not exist.
        trust_state: Do not read the files. Files with the recorded sizes and times count as unchanged, all other files
            as `CHANGED`, and files that cannot be examined as unknown. Only for display.
    """
    if not trust_state:
        return ModelDigests(
            source=digest_of(model.path) if model.path is not None and model.path.exists() else None,
            content=digest_of(folder) if folder.is_dir() else None,
        )
    if (made := find_record(workspace, model)) is None:
        return ModelDigests()
    return ModelDigests(
        source=None if model.path is None else _looked_at(model.path, made.source, made.source_state),
        content=_looked_at(folder, made.content, made.content_state),
    )


def _looked_at(path: Path, digest: str, state: str) -> str | None:
    """Return the recorded digest if the files have the recorded state, else `CHANGED`. The files are not read.

    None means that the path does not exist, or that its state is unknown. For example, a training job may replace the
    files at this moment.
    """
    try:
        if not path.exists():
            return None
        return digest if state_of(path) == state else CHANGED
    except OSError:
        return None


def is_stale(workspace: Workspace, model: ModelSection, folder: Path) -> bool:
    """Return whether the workspace's copy of a model was converted from another source or with other settings.

    A copy without a record, or a copy that was changed after the conversion, is not stale: replacing it could lose
    work.
    """
    made = find_record(workspace, model)
    if made is None or model.path is None or not model.path.exists() or made.content != digest_of(folder):
        return False
    settings = (made.inputs, made.outputs, made.tags, made.optimization, made.warm_up)
    described = (model.inputs, model.outputs, model.tags, optimization_of(model), model.warm_up)
    return settings != described or made.source != digest_of(model.path)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or for a folder the SHA-256 of the list of its files' names and digests."""
    return _digest(path, lambda file: sha256_of(file).encode())


def state_of(path: Path) -> str:
    """Return a digest of the files' names, sizes and modification times. A copy with the same times is equal.

    A replaced file with the same size and time is not detected, so the digest is used only for display.
    """

    def state(file: Path) -> bytes:
        found = file.stat()
        return f"{found.st_size} {found.st_mtime_ns}".encode()

    return _digest(path, state)


def _digest(path: Path, of_file: Callable[[Path], bytes]) -> str:
    if not path.is_dir():
        return hashlib.sha256(of_file(path)).hexdigest()
    whole = hashlib.sha256()
    for file in _files(path):
        name = os.fsencode(file.relative_to(path))
        whole.update(b"%d %s %s\n" % (len(name), name, of_file(file)))
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


def _place(workspace: Workspace, model: ModelSection) -> Path:
    return workspace.owner.provenance / "models" / model.name / f"{model.version}.json"
