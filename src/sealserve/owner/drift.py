"""Whether a release still is what ``sealserve.toml`` and the models' sources describe.

Each release has a record of the facts that it was built from (`release_facts`). The record is the owner's: it stays in
the owner's folder and is not shipped.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.canonical_document import canonical_json
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner import models
from sealserve.owner.model_record import ModelDigests, present_digests, sealed_digests
from sealserve.owner.release_facts import CONTENT, SOURCE, default_of, described_facts
from sealserve.regular_file import read_regular
from sealserve.sealing.release_index import INDEX_FILE
from sealserve.workspace import Workspace

_SHORT: Final = 12
"""How many digits of a digest a person sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting or a model that differs.

    Args:
        key: The setting as ``sealserve.toml`` names it, or a model: ``model[NAME:VERSION].source``.
        released: Its value in the release, as JSON or a digest, or None if the release does not have it.
        described: Its value now, or None if ``sealserve.toml`` does not have it.
    """

    key: str
    released: str | None
    described: str | None

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.released)} -> {_shown(self.described)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How a release differs from what is described.

    Args:
        release: The release's name.
        comparable: Whether it has a record. A release of an earlier version has none.
        differences: What differs, ordered by key; empty if nothing does, or if it is not comparable.
    """

    release: str
    comparable: bool
    differences: tuple[Difference, ...] = ()

    @property
    def keys(self) -> str:
        """The keys that differ, as one phrase."""
        return ", ".join(difference.key for difference in self.differences)


class _Record(BaseModel):
    """What a release was built from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    release_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    facts: dict[str, str]


def compare(released: Mapping[str, str], described: Mapping[str, str]) -> tuple[Difference, ...]:
    """Return the facts that differ, ordered by key.

    Args:
        released: Those of a release. A setting that it does not have had its default.
        described: Those of a release that would be built now.
    """
    found = []
    for key in sorted({*released, *described}):
        before = released.get(key, default_of(key))
        after = described.get(key, default_of(key))
        if before == after or _is_implied(key, released, described):
            continue
        found.append(Difference(key=key, released=before, described=after))
    return tuple(found)


def _is_implied(key: str, released: Mapping[str, str], described: Mapping[str, str]) -> bool:
    """Return whether another difference says it already, or one side does not know it."""
    model, _, _ = key.rpartition(".")
    if model.startswith("model[") and model in released.keys() ^ described.keys():
        return True  # the whole model was added or removed
    if key.startswith("certificates.") or key.endswith((SOURCE, CONTENT)):
        if key not in released or key not in described:
            return True  # the source or the authority is not here: nothing can be said of it
        source = f"{model}{SOURCE}"  # a re-exported source explains another content
        return key.endswith(CONTENT) and released.get(source) != described.get(source) and source in described
    return False


def facts_to_seal(workspace: Workspace, deployment: Deployment) -> Mapping[str, str]:
    """Return the facts of a release that is built now from the workspace's copies of the models.

    Raises:
        InputError: `model.not-imported`: A model is not in the workspace.
    """
    digests = {
        (model.name, model.version): sealed_digests(workspace, model, models.servable_folder(workspace, model))
        for model in deployment.models
    }
    return described_facts(workspace, deployment, digests)


def facts_now(workspace: Workspace, deployment: Deployment, *, quick: bool = False) -> Mapping[str, str]:
    """Return the facts that ``sealserve.toml`` and the models' sources describe now.

    Args:
        workspace: The owner's.
        deployment: What it describes.
        quick: Whether a model's files are not read: with the recorded sizes and times they count as unchanged,
            else as changed. Only for display.
    """
    digests: dict[tuple[str, int], ModelDigests] = {
        (model.name, model.version): present_digests(
            workspace, model, models.planned_folder(workspace, model), trust_state=quick
        )
        for model in deployment.models
    }
    return described_facts(workspace, deployment, digests)


def remember(workspace: Workspace, release: str, release_id: str, facts: Mapping[str, str]) -> None:
    """Write the record of a release that was just built."""
    path = _place(workspace, release)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = _Record(release_id=release_id, facts=dict(facts))
    write_file(path, canonical_json(made.model_dump(mode="json")), mode=PRIVATE)


def forget(workspace: Workspace, release: str) -> None:
    """Remove the record of a release."""
    _place(workspace, release).unlink(missing_ok=True)


def released_facts(workspace: Workspace, release: Path) -> Mapping[str, str] | None:
    """Return what a release was built from, or None if that is unknown: an earlier version built it.

    The record counts only for the release with its id, not for another one of the same name.
    """
    try:
        found = _Record.model_validate_json(read_regular(_place(workspace, release.name)))
        release_id = hashlib.sha256(read_regular(release / INDEX_FILE)).hexdigest()
    except (SealserveError, ValidationError):
        return None
    return found.facts if found.release_id == release_id else None


def drift_of(
    workspace: Workspace,
    deployment: Deployment,
    release: Path,
    *,
    quick: bool = False,
    described: Mapping[str, str] | None = None,
) -> Drift:
    """Return how a release differs from what ``sealserve.toml`` and the models' sources describe. Nothing is changed.

    Args:
        workspace: The owner's.
        deployment: What it describes.
        release: The release's folder at the owner's.
        quick: As for `facts_now`: for `status`.
        described: The facts that are described now, if they are known already.
    """
    released = released_facts(workspace, release)
    if released is None:
        return Drift(release=release.name, comparable=False)
    if described is None:
        described = facts_now(workspace, deployment, quick=quick)
    return Drift(release=release.name, comparable=True, differences=compare(released, described))


def _shown(value: str | None) -> str:
    if value is None:
        return "none"
    is_digest = len(value) == hashlib.sha256().digest_size * 2 and set(value) <= set("0123456789abcdef")
    return f"{value[:_SHORT]}..." if is_digest else value


def _place(workspace: Workspace, release: str) -> Path:
    return workspace.owner.provenance / "releases" / f"{release}.json"
