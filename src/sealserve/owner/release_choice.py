"""Which release `up` serves: the present one as long as it is what ``sealserve.toml`` describes, else a new one."""

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
        release: The present release, or None if there is no release yet.
        drift: How the present release differs from what is described, or None if that was not asked for.
        description: What is described, to be kept; None on a machine that is only the host.
        unchanged: Whether the same was described when the present release was started, as after a roll-back.
        instead_of: The name of the release that served last, if it has ended: the newest one takes its place.
        as_it_is: Whether the present release is to be served whatever differs.
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
    """Return the release that is meant if no release is named, or None if there is none.

    It is the one that served last, also after a roll-back. A release that was built since takes its place.

    Args:
        parent: The folder with this machine's releases.
        served: The name of the release that served last, or None if that is unknown.
        newest_then: The name of the newest release when that one was started.
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
    """Return which release the owner's `up` serves, and how it differs from what is described. Nothing is changed.

    The models' sources are read, so this may take seconds.

    Args:
        workspace: The owner's.
        deployment: What it describes.
        served: As for `present`.
        newest_then: As for `present`.
        now: The time on the owner's clock. A release that has ended by then is not served again. With None, the
            broker's database is not opened, since that writes beside it.
        as_it_is: Whether the release is to be served whatever differs. Then large sources need not be read.
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
