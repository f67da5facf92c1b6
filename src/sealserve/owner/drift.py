"""Compare a release with ``sealserve.toml`` and the models' sources.

Each release has a record of the facts from which it was built (see `release_facts`). The record stays in the owner's
folder and is not shipped to the host.
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
"""Number of digits of a digest in text for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting or a model that differs.

    Args:
        key: Key of the setting in ``sealserve.toml``, or a model: ``model[NAME:VERSION].source``.
        released: Value in the release, as JSON or a digest. None if the release does not have this key.
        described: Current value. None if ``sealserve.toml`` does not have this key.
    """

    key: str
    released: str | None
    described: str | None

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.released)} -> {_shown(self.described)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The differences between a release and ``sealserve.toml`` with the models' sources.

    Args:
        release: The release's name.
        comparable: Whether the release has a record. Releases of an earlier version do not have a record.
        differences: The differences, ordered by key. Empty also if the release is not comparable.
    """

    release: str
    comparable: bool
    differences: tuple[Difference, ...] = ()

    @property
    def keys(self) -> str:
        """The keys that differ, separated by commas."""
        return ", ".join(difference.key for difference in self.differences)


class _Record(BaseModel):
    """The facts from which a release was built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    release_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    facts: dict[str, str]


def compare(released: Mapping[str, str], described: Mapping[str, str]) -> tuple[Difference, ...]:
    """Return the facts that differ, ordered by key.

    Args:
        released: Facts of a release. A missing setting means its default.
        described: Facts of a release that would be built now.
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
    """Return whether another difference already implies this one, or one side does not have the fact."""
    model, _, _ = key.rpartition(".")
    if model.startswith("model[") and model in released.keys() ^ described.keys():
        return True  # the whole model was added or removed
    if key.startswith("certificates.") or key.endswith((SOURCE, CONTENT)):
        if key not in released or key not in described:
            return True  # the source or the authority is not on this machine, so it cannot be compared
        source = f"{model}{SOURCE}"  # a changed source already implies a changed content
        return key.endswith(CONTENT) and released.get(source) != described.get(source) and source in described
    return False


def facts_to_seal(workspace: Workspace, deployment: Deployment) -> Mapping[str, str]:
    """Return the facts of a release that is built now from the workspace's copies of the models.

    Raises:
        InputError: `model.not-imported`: A model was not converted into the workspace yet.
    """
    digests = {
        (model.name, model.version): sealed_digests(workspace, model, models.servable_folder(workspace, model))
        for model in deployment.models
    }
    return described_facts(workspace, deployment, digests)


def facts_now(workspace: Workspace, deployment: Deployment, *, quick: bool = False) -> Mapping[str, str]:
    """Return the facts that ``sealserve.toml`` and the models' sources describe now.

    Args:
        workspace: The owner's workspace.
        deployment: The deployment that ``sealserve.toml`` describes.
        quick: Do not read the models' files. Files with the recorded sizes and times count as unchanged, and all other
            files as changed. Only for display.
    """
    digests: dict[tuple[str, int], ModelDigests] = {
        (model.name, model.version): present_digests(
            workspace, model, models.planned_folder(workspace, model), trust_state=quick
        )
        for model in deployment.models
    }
    return described_facts(workspace, deployment, digests)


def remember(workspace: Workspace, release: str, release_id: str, facts: Mapping[str, str]) -> None:
    """Write the record of a new release."""
    path = _place(workspace, release)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = _Record(release_id=release_id, facts=dict(facts))
    write_file(path, canonical_json(made.model_dump(mode="json")), mode=PRIVATE)


def forget(workspace: Workspace, release: str) -> None:
    """Remove the record of a release."""
    _place(workspace, release).unlink(missing_ok=True)


def released_facts(workspace: Workspace, release: Path) -> Mapping[str, str] | None:
    """Return the facts from which a release was built, or None if an earlier version built it.

    The record applies only to the release with the same id, not to another release with the same name.
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
    """Compare a release with ``sealserve.toml`` and the models' sources. Nothing is changed.

    Args:
        workspace: The owner's workspace.
        deployment: The deployment that ``sealserve.toml`` describes.
        release: The release's folder in the owner's workspace.
        quick: As for `facts_now`; used by `status`.
        described: The result of `facts_now`, if the caller already has it.
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
