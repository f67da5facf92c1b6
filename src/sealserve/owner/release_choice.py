"""Which release `up` serves: the present one as long as it is what ``sealserve.toml`` describes, else a new one."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sealserve.deployment import Deployment
from sealserve.owner import drift, provisioning, releases
from sealserve.owner.drift import Drift
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The release to serve.

    Args:
        release: The present release, or None if there is no release yet.
        drift: How the present release differs from what is described, or None if that was not asked for.
    """

    release: Path | None
    drift: Drift | None = None

    @property
    def builds(self) -> bool:
        """Whether a new release must be built."""
        return self.release is None or (self.drift is not None and bool(self.drift.differences))


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
    """
    release = present(workspace.owner.releases, served=served, newest_then=newest_then)
    if release is None:
        return Choice(release=None)
    newest = releases.newest(workspace.owner.releases)
    if release != newest and now is not None and provisioning.has_ended(workspace, release, now=now):
        release = newest
    return Choice(release=release, drift=drift.drift_of(workspace, deployment, release))
