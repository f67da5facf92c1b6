"""How a model of the workspace was made: a record beside the models, so that a re-exported source is noticed.

The record has the SHA-256 of the source and of the converted copy. It also has a digest of the size and time of
each file: while these are unchanged, a command that only shows something need not read gigabytes again. Commands
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
from sealserve.regular_file import read_regular
from sealserve.workspace import Workspace

CHANGED: Final = "changed"
"""Stands for the digest of files that differ from their record, where they are not read."""

_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDigests:
    """The state of a model's files.

    Args:
        source: SHA-256 of what the model is or was made from, or None if it is unknown.
        content: SHA-256 of the converted copy in the workspace, or None if there is no copy.
    """

    source: str | None = None
    content: str | None = None


class ModelRecord(BaseModel):
    """How a model was made.

    Attributes:
        source: SHA-256 of the frozen graph or SavedModel that was converted.
        source_state: Digest of the sizes and times of its files.
        content: SHA-256 of the converted copy.
        content_state: Digest of the sizes and times of its files.
        inputs: The setting ``model.inputs`` of the conversion.
        outputs: The setting ``model.outputs`` of the conversion.
        tags: The setting ``model.tags`` of the conversion.
        keep_frozen: Whether large constants stayed constants.
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


def record(
    workspace: Workspace, model: ModelSection, *, source: str, source_state: str, folder: Path, keep_frozen: bool
) -> None:
    """Write the record of a model that was just converted.

    Args:
        workspace: The owner's.
        model: The model.
        source: The digest of what was converted.
        source_state: Its `state_of`, from before the conversion.
        folder: The converted copy.
        keep_frozen: Whether large constants stayed constants.
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
    )
    path = _place(workspace, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, canonical_json(made.model_dump(mode="json")), mode=PRIVATE)


def find_record(workspace: Workspace, model: ModelSection) -> ModelRecord | None:
    """Return how a model was made, or None if that is unknown: an earlier version made it, or a person did."""
    try:
        return ModelRecord.model_validate_json(read_regular(_place(workspace, model)))
    except (SealserveError, ValidationError):
        return None


def forget(workspace: Workspace, model: ModelSection) -> None:
    """Remove the record of a model, before its copy is replaced."""
    _place(workspace, model).unlink(missing_ok=True)


def sealed_digests(workspace: Workspace, model: ModelSection, folder: Path) -> ModelDigests:
    """Return what a release is made from that seals the workspace's copy of a model now. The files are read.

    The source is that of the copy, whatever is at the source's place now. It is unknown if the copy was changed since.
    """
    content = digest_of(folder)
    made = find_record(workspace, model)
    source = made.source if made is not None and made.content == content else None
    return ModelDigests(source=source, content=content)


def present_digests(
    workspace: Workspace, model: ModelSection, folder: Path, *, trust_state: bool = False
) -> ModelDigests:
    """Return the digests of what is at the source's place, and of the workspace's copy, now.

    Args:
        workspace: The owner's.
        model: The model.
        folder: The workspace's copy, which may be missing.
        trust_state: Whether files whose sizes and times are as recorded count as unchanged, and all others as
            `CHANGED`. No file is read then, and one that cannot be looked at counts as unknown. Only for display.
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
    """Return the recorded digest of files with the recorded state, and `CHANGED` for others: they are not read.

    It is None where there is no file, or one that cannot be looked at now: nothing can be said then. A training job
    may replace the files meanwhile.
    """
    try:
        if not path.exists():
            return None
        return digest if state_of(path) == state else CHANGED
    except OSError:
        return None


def is_stale(workspace: Workspace, model: ModelSection, folder: Path) -> bool:
    """Return whether the workspace's copy of a model was made from another source, or in another way, than described.

    A copy without a record, or one that was changed after it was made, is not stale: replacing it could lose work.
    """
    made = find_record(workspace, model)
    if made is None or model.path is None or not model.path.exists() or made.content != digest_of(folder):
        return False
    settings = (made.inputs, made.outputs, made.tags)
    return settings != (model.inputs, model.outputs, model.tags) or made.source != digest_of(model.path)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder: of the list of its files' names and digests."""
    return _digest(path, lambda file: _file_digest(file).encode())


def state_of(path: Path) -> str:
    """Return a digest of the files' names, sizes and times of change. A copy that keeps the times has the same.

    A file that was replaced by one of the same size and time is not noticed, so this is only for display.
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


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _place(workspace: Workspace, model: ModelSection) -> Path:
    return workspace.owner.provenance / "models" / model.name / f"{model.version}.json"
