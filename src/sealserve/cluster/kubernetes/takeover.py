"""The state that a new Deployment of the replicas inherits from the running Deployment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealserve.cluster.kubernetes import replicas
from sealserve.cluster.kubernetes.cluster_client import ObjectName
from sealserve.cluster.kubernetes.render_context import Manifest, RenderContext
from sealserve.cluster.kubernetes.rollout import has_every_pod

PREVIOUS: Final = "sealserve/previous-release"


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The inherited state.

    Args:
        replaced: The names of the releases that the new release replaces, the one that served last first.
        replicas: The resulting number of replicas.
    """

    replaced: Sequence[str]
    replicas: int


def take_over(made: Sequence[Manifest], running: Manifest | None, context: RenderContext) -> TakenOver:
    """Write the previous release and the number of replicas that an autoscaler chose into the new Deployment.

    Args:
        made: The objects that are about to be applied. The Deployment among them is changed.
        running: The Deployment in the cluster, or None.
        context: The deployment to render.
    """
    new = next((item for item in made if running is not None and ObjectName.of(item) == ObjectName.of(running)), None)
    if running is None or new is None:
        return TakenOver((), context.replicas)
    if (most := context.settings.autoscaler.max_replicas) is not None:
        new["spec"]["replicas"] = max(min(context.replicas, most), min(running["spec"]["replicas"], most))
    replaced = _replaced(new, running)
    if replaced:
        new["metadata"]["annotations"][PREVIOUS] = replaced[0]
    return TakenOver(replaced, new["spec"]["replicas"])


def _replaced(new: Manifest, running: Manifest) -> Sequence[str]:
    """Return the other releases that the running Deployment names, the one that served last first.

    A release that was rejected, so that it never replaced every pod, does not count as having served.
    """
    before = running["metadata"].get("annotations", {})
    known = [before.get(replicas.RELEASE_LABEL), before.get(PREVIOUS)]
    if not has_every_pod(running):
        known.reverse()
    return [str(name) for name in known if name and name != new["metadata"]["annotations"][replicas.RELEASE_LABEL]]
