"""What ``sealserve.toml`` and the models' sources described when a release was served, kept by the owner.

A release may differ from what is described, as after a roll-back. While the same is described as then, it is served
again. The facts are kept, and not a digest of them, so that a source that is not mounted now, or a setting that is new
in this version, is no change.
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
"""How many releases have an entry: the one that serves, and one that a failed roll-out was to serve."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    order: tuple[str, ...] = ()
    facts: dict[str, dict[str, str]] = {}


def keep(workspace: Workspace, release: str, facts: Mapping[str, str]) -> None:
    """Remember what is described while a release is served.

    What was known before stays if it is unknown now, such as a source that is not mounted.

    Args:
        workspace: The owner's.
        release: The release's name.
        facts: What is described.
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
    """Return whether the same is described as when a release was served. A damaged file counts as missing."""
    kept = _read(workspace).facts.get(release)
    return kept is not None and not compare(kept, as_described(facts))


def _read(workspace: Workspace) -> _Document:
    try:
        return _Document.model_validate_json(read_regular(_place(workspace)))
    except (SealserveError, ValidationError):
        return _Document()


def _place(workspace: Workspace) -> Path:
    return workspace.owner.provenance / "described.json"
