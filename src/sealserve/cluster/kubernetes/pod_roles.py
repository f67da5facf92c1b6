"""The roles of pods: the same part names as on the other targets."""

from collections.abc import Mapping, Sequence
from typing import Final

from sealserve.cluster.kubernetes import front, inside_broker, platform, replicas
from sealserve.cluster.kubernetes.render_context import Manifest
from sealserve.cluster.target import BROKER, NGINX, PLATFORM, REPLICA

COMPONENT: Final = "app.kubernetes.io/component"
_ROLES: Final[Mapping[str, str]] = {front.PART: NGINX, inside_broker.PART: BROKER, platform.PART: PLATFORM}


def is_replica(pod: Manifest) -> bool:
    """Return whether a pod is a replica."""
    return bool(pod["metadata"]["labels"].get(COMPONENT) == replicas.PART)


def roles(pods: Sequence[Manifest]) -> Sequence[tuple[str, Manifest]]:
    """Return the pods with their roles. Replicas are numbered by creation time, as ``replica-0``, ``replica-1``, ...

    Several pods of NGINX or of the simulated platform share a role. Their names distinguish them.
    """
    ordered = sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))
    found: list[tuple[str, Manifest]] = []
    number = 0
    for pod in ordered:
        part = str(pod["metadata"]["labels"].get(COMPONENT, ""))
        if is_replica(pod):
            found.append((f"{REPLICA}{number}", pod))
            number += 1
        else:
            found.append((_ROLES.get(part, part), pod))
    return sorted(found, key=lambda item: (not item[0].startswith(NGINX), not is_replica(item[1])))
