"""Which releases a deployment needs: those that serve, or that `up` or a roll-back would serve."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

from sealserve.cluster import targets, wanted
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import owner_services
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.workspace import Workspace

_RETURNS: Final = "a roll-back returns to it"
_SERVED: Final = "served last"
_SERVES: Final = "it serves"


def needed_releases(workspace: Workspace, deployment: Deployment) -> Mapping[str, str]:
    """Return why each release is needed, by its name. Every source counts: each can be missing, or be behind.

    Args:
        workspace: Whose deployment it is.
        deployment: What it describes.

    Raises:
        SealserveError: A record is damaged, or the target does not answer: what is needed is not known.
    """
    # 1. What commands have kept.
    last, record = wanted.read_intact(workspace), ReleaseRecord(workspace)
    reasons: list[tuple[str | None, str]] = [(last.previous, _RETURNS), (last.release, _SERVED)]
    with _none_before():
        reasons.append((record.previous(), _RETURNS))
    reasons.append((record.serving(), _SERVED))
    # 2. What was started on this machine: replicas that leave still serve, and one that ended is started again.
    reasons += [(process.release, _SERVES) for process in owner_services.registry(workspace).all().values()]
    # 3. What another target tells itself.
    if targets.in_use(workspace) not in {None, "local"}:
        target = targets.open_target(workspace, deployment)
        with _none_before():
            reasons.append((target.previous_release(), _RETURNS))
        reasons += [(part.release, _SERVES) for part in target.status()]
    return {name: reason for name, reason in reasons if name}


@contextlib.contextmanager
def _none_before() -> Iterator[None]:
    try:
        yield
    except SealserveError as error:
        if error.code != ClusterCode.TARGET_NOT_UP:
            raise
