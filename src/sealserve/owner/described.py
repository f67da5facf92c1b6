"""A record of ``sealserve.toml`` and the models' sources at the time when a release was served.

A served release can differ from ``sealserve.toml``, for example after a roll-back. As long as ``sealserve.toml`` and
the sources do not change, that release is served again. The record contains the facts instead of a digest. A source
that is not mounted now, or a setting that is new in this version, is therefore not a change.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.canonical_document import canonical_json
from sealserve.errors import SealserveError
from sealserve.owner.drift import compare
from sealserve.owner.release_facts import as_described
from sealserve.regular_file import read_regular
from sealserve.workspace import Workspace

_RELEASES: Final = 2
"""Number of releases with an entry: the serving release, and the release of a failed roll-out."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    order: tuple[str, ...] = ()
    facts: dict[str, dict[str, str]] = {}


def keep(workspace: Workspace, release: str, facts: Mapping[str, str]) -> None:
    """Record the facts that are described while a release is served.

    A recorded fact is kept if it is unknown now, for example because a source is not mounted.

    Args:
        workspace: The owner's workspace.
        release: The release's name.
        facts: The facts that ``sealserve.toml`` and the models' sources describe now.
    """
    before = _read(workspace)
    kept = as_described(facts)
    if is_unchanged(workspace, release, facts):
        kept = as_described({**kept, **before.facts[release]})
    order = (*(name for name in before.order if name != release), release)[-_RELEASES:]
    entries = {**before.facts, release: dict(kept)}
    made = _Document(order=order, facts={name: entries[name] for name in order if name in entries})
    path = _place(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, canonical_json(made.model_dump(mode="json")), mode=PRIVATE)


def is_unchanged(workspace: Workspace, release: str, facts: Mapping[str, str]) -> bool:
    """Return whether the facts are the same as when the release was served. A damaged record counts as missing."""
    kept = _read(workspace).facts.get(release)
    return kept is not None and not compare(kept, as_described(facts))


def _read(workspace: Workspace) -> _Document:
    try:
        return _Document.model_validate_json(read_regular(_place(workspace)))
    except (SealserveError, ValidationError):
        return _Document()


def _place(workspace: Workspace) -> Path:
    return workspace.owner.provenance / "described.json"
