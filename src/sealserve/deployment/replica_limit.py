"""Maximum number of replicas per target, with the reason: for `target.replicas`, the CLI and the autoscaler."""

from dataclasses import dataclass
from typing import Final

MOST_LOCAL: Final = 64
"""Each local replica is a separate process with TensorFlow (hundreds of MB), and its enclave must be built."""

MOST_IN_CLUSTER: Final = 1000
"""Kubernetes truncates the Endpoints of a Service beyond 1000 addresses, and ingress controllers may read Endpoints.

Source: kubernetes.io/docs/concepts/services-networking/service, "Over-capacity endpoints".
"""

SHARED_NETWORKS: Final = 2
"""Docker networks that replicas share: NGINX's network, and the network where the broker gets collateral."""

_ROLLOUT_NETWORKS: Final = 1  # a new replica starts before the old replica stops


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLimit:
    """The maximum number of replicas of a target.

    Args:
        most: The maximum number.
        reason: Why the target cannot run more, as part of a sentence.
    """

    most: int
    reason: str


def replica_limit(kind: str, *, docker_networks: int) -> ReplicaLimit:
    """Return how many replicas a target can run.

    Args:
        kind: The target: ``local``, ``docker`` or ``kubernetes``.
        docker_networks: The number of networks that docker.subnet has room for.
    """
    if kind == "docker":
        return ReplicaLimit(
            most=docker_networks - SHARED_NETWORKS - _ROLLOUT_NETWORKS,
            reason=f"docker.subnet holds {docker_networks} networks; each replica uses one, NGINX and the broker use "
            f"{SHARED_NETWORKS}, and a roll-out requires {_ROLLOUT_NETWORKS} more",
        )
    if kind == "kubernetes":
        return ReplicaLimit(most=MOST_IN_CLUSTER, reason="Kubernetes truncates the Endpoints of larger Services")
    return ReplicaLimit(most=MOST_LOCAL, reason="each replica is a process with TensorFlow on this machine")
