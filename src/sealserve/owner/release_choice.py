"""Choose the release that `up` serves: the present release if it matches ``sealserve.toml``, else a new release."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sealserve.deployment import Deployment
from sealserve.owner import described, drift, provisioning, releases
from sealserve.owner.drift import Drift
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The release to serve.

    Args:
        release: The present release, or None if no release exists yet.
        drift: Differences between the present release and ``sealserve.toml``, or None if they were not compared.
        description: The described facts, to be recorded; None on a machine that is only the host.
        unchanged: Whether ``sealserve.toml`` did not change since the present release was started. This can be the case
            after a roll-back, although the release differs from ``sealserve.toml``.
        instead_of: Name of the release that served last, if it has ended and the newest release replaces it.
        as_it_is: Serve the present release even if it differs.
    """

    release: Path | None
    drift: Drift | None = None
    description: Mapping[str, str] | None = None
    unchanged: bool = False
    instead_of: str | None = None
    as_it_is: bool = False

    @property
    def builds(self) -> bool:
        """Whether a new release must be built."""
        differs = self.drift is not None and bool(self.drift.differences)
        return self.release is None or (differs and not self.unchanged and not self.as_it_is)


def present(parent: Path, *, served: str | None, newest_then: str | None) -> Path | None:
    """Return the default release, which is used if no release is named, or None if no release exists.

    The default is the release that served last, also after a roll-back. A release that was built since replaces it.

    Args:
        parent: The folder with this machine's releases.
        served: Name of the release that served last, or None if it is unknown.
        newest_then: Name of the newest release at the time when ``served`` was started.
    """
    if not releases.any_in(parent):
        return None
    newest = releases.newest(parent)
    if served is not None and newest.name == newest_then and releases.is_release(parent / served):
        return parent / served
    return newest


def choose(
    workspace: Workspace,
    deployment: Deployment,
    *,
    served: str | None,
    newest_then: str | None,
    now: datetime | None,
    as_it_is: bool = False,
) -> Choice:
    """Return the release that `up` serves on the owner's machine, and its differences. Nothing is changed.

    The models' sources are read, so this can take seconds.

    Args:
        workspace: The owner's workspace.
        deployment: The deployment that ``sealserve.toml`` describes.
        served: As for `present`.
        newest_then: As for `present`.
        now: The time on the owner's clock. A release that has ended by this time is not served again. With None, the
            broker's database is not opened, because opening it creates files beside it.
        as_it_is: Serve the release even if it differs. Large sources are then not read.
    """
    release = present(workspace.owner.releases, served=served, newest_then=newest_then)
    facts = drift.facts_now(workspace, deployment, quick=as_it_is and release is not None)
    if release is None:
        return Choice(release=None, description=facts)
    newest, ended = releases.newest(workspace.owner.releases), None
    if release != newest and now is not None and provisioning.has_ended(workspace, release, now=now):
        release, ended = newest, release.name
    return Choice(
        release=release,
        drift=drift.drift_of(workspace, deployment, release, described=facts),
        description=None if as_it_is else facts,
        unchanged=release.name == served and described.is_unchanged(workspace, release.name, facts),
        as_it_is=as_it_is,
        instead_of=ended,
    )
