"""How many replicas each target can run, and why: for `target.replicas`, the command line and the autoscaler."""

from dataclasses import dataclass
from typing import Final

MOST_LOCAL: Final = 64
"""Each replica on this machine is a process of its own with TensorFlow (hundreds of MB) and an enclave to build."""

MOST_IN_CLUSTER: Final = 1000
"""Kubernetes truncates the Endpoints of a Service after so many addresses; controllers of an ingress may read them.

Source: kubernetes.io/docs/concepts/services-networking/service, "Over-capacity endpoints".
"""

SHARED_NETWORKS: Final = 2
"""The Docker networks beside those of the replicas: NGINX's, and the one in which the broker asks for collateral."""

_ROLLOUT_NETWORKS: Final = 1  # a new replica starts before the old one ends


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLimit:
    """The most replicas of a target.

    Args:
        most: How many.
        reason: Why there cannot be more, as part of a sentence.
    """

    most: int
    reason: str


def replica_limit(kind: str, *, docker_networks: int) -> ReplicaLimit:
    """Return how many replicas a target can run.

    Args:
        kind: The target.
        docker_networks: How many networks docker.subnet has room for.
    """
    if kind == "docker":
        return ReplicaLimit(
            most=docker_networks - SHARED_NETWORKS - _ROLLOUT_NETWORKS,
            reason=f"docker.subnet holds {docker_networks} networks; each replica has one, NGINX and the broker have "
            f"{SHARED_NETWORKS}, and a roll-out needs {_ROLLOUT_NETWORKS} more",
        )
    if kind == "kubernetes":
        return ReplicaLimit(most=MOST_IN_CLUSTER, reason="Kubernetes truncates the Endpoints of larger Services")
    return ReplicaLimit(most=MOST_LOCAL, reason="each replica is a process with TensorFlow on this machine")
