"""The releases that a deployment needs: it serves them, or `up` or a roll-back would serve them."""

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
_SERVED: Final = "it served last"
_SERVES: Final = "it serves now"


def needed_releases(workspace: Workspace, deployment: Deployment) -> Mapping[str, str]:
    """Return why each release is needed, by its name. All sources are combined, because any can be missing or outdated.

    Args:
        workspace: The workspace of the deployment.
        deployment: The deployment that the workspace describes.

    Raises:
        SealserveError: A record is damaged, or the target does not answer, so the needed releases are unknown.
    """
    # 1. Records of earlier commands.
    last, record = wanted.read_intact(workspace), ReleaseRecord(workspace)
    reasons: list[tuple[str | None, str]] = [(last.previous, _RETURNS), (last.release, _SERVED)]
    with _none_before():
        reasons.append((record.previous(), _RETURNS))
    reasons.append((record.serving(), _SERVED))
    # 2. Processes on this machine. A leaving replica still serves, and the supervisor restarts a replica that ended.
    reasons += [(process.release, _SERVES) for process in owner_services.registry(workspace).all().values()]
    # 3. The state that a Docker or Kubernetes target reports.
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
