"""The progress of a deployment's pods: the state of each, and whether a roll-out is complete or cannot complete."""

import time
from collections.abc import Sequence
from typing import Any, Final

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes import front, replicas
from sealserve.cluster.kubernetes.cluster_client import ClusterClient, ObjectName
from sealserve.cluster.kubernetes.progress import state_of
from sealserve.cluster.kubernetes.render_context import APPLICATION, Manifest
from sealserve.cluster.target import State, Tell

CHECK_SECONDS: Final = 1.0
_REVISION: Final = "deployment.kubernetes.io/revision"
_LOG_LINES: Final = 60
_REFUSALS: Final = 2  # a restarting broker may break one connection


class Rollout:
    """The pods of a deployment.

    Args:
        client: The cluster.
        namespace: The deployment's namespace.
        start_seconds: Maximum time in seconds for a replica to start.
        tell: Called with the progress.
    """

    def __init__(self, client: ClusterClient, *, namespace: str, start_seconds: int, tell: Tell) -> None:
        self._client = client
        self._namespace = namespace
        self._start_seconds = start_seconds
        self._tell = tell

    def wait(self, wanted: int) -> None:
        """Wait until the roll-out is complete.

        Args:
            wanted: The number of replicas that should serve.

        Raises:
            VerificationError: `kubernetes.rollout-refused` if the new enclaves are rejected. Old replicas continue.
            UnavailableError: `kubernetes.rollout-slow` if it takes longer than ``kubernetes.start_seconds``.
        """
        deadline = time.monotonic() + (self._start_seconds + 60) * max(1, wanted)
        space = self._namespace
        fronts = deployment_name(space, front.PART)
        while True:
            running = self._client.get(deployment_name(space)) or {}
            done = is_complete(running) and is_complete(self._client.get(fronts) or {"status": None})
            if done:
                return
            new = self._newest(running)
            states = {pod["metadata"]["name"]: self.state(pod) for pod in new}
            serving = sum(state is State.SERVING for state, _ in states.values())
            reasons = {
                name: reason for name, (state, reason) in states.items() if reason and state is not State.SERVING
            }
            self._tell(
                f"{serving} of {wanted} replicas serve" + "".join(f"; {name}: {text}" for name, text in reasons.items())
            )
            for pod in new:
                name = pod["metadata"]["name"]
                if states[name][0] is State.REFUSED and restarts(pod) >= _REFUSALS:
                    raise ClusterCode.KUBERNETES_ROLLOUT_REFUSED.error(
                        f"The roll-out stopped: {name} does not start: {reasons[name]}",
                        hint="Old replicas continue to serve. `sealserve broker log` shows the broker's reason. To "
                        "return to the previous release, run `sealserve up --rollback`.",
                    )
            if time.monotonic() > deadline:
                raise ClusterCode.KUBERNETES_ROLLOUT_SLOW.error(
                    f"The roll-out is not complete: {serving} of {wanted} replicas serve: "
                    f"{'; '.join(reasons.values()) or 'the others are still starting'}.",
                    hint="Run `sealserve status` and `sealserve logs`. If replicas need more time to start, raise "
                    "kubernetes.start_seconds.",
                )
            time.sleep(CHECK_SECONDS)

    def pods(self) -> Sequence[Manifest]:
        """Return all of the deployment's pods, ordered by name."""
        space = self._namespace
        found = self._client.find("v1", "Pod", space, f"app.kubernetes.io/name={APPLICATION}")
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def state(self, pod: Manifest) -> tuple[State, str]:
        """Return a pod's state, and the reason if it does not serve."""
        return state_of(pod, self.log(pod))

    def log(self, pod: Manifest) -> Sequence[str]:
        """Return the last lines of a replica's log. Empty for other pods."""
        if not _is_replica(pod):
            return ()
        name, space = pod["metadata"]["name"], pod["metadata"]["namespace"]
        return self._client.log(space, name, "server", last=_LOG_LINES)

    def _newest(self, deployment: Manifest) -> Sequence[Manifest]:
        """Return the replica pods of the newest template. Problems of pods from earlier templates do not matter."""
        space = self._namespace
        sets = self._client.find("apps/v1", "ReplicaSet", space, f"app.kubernetes.io/component={replicas.PART}")
        revision = deployment.get("metadata", {}).get("annotations", {}).get(_REVISION)
        hashes = {
            made["metadata"]["labels"]["pod-template-hash"]
            for made in sets
            if made["metadata"].get("annotations", {}).get(_REVISION) == revision
        }
        return [
            pod
            for pod in self.pods()
            if pod["metadata"]["labels"].get("pod-template-hash") in hashes
            and not pod["metadata"].get("deletionTimestamp")
        ]


def deployment_name(namespace: str, part: str = replicas.PART) -> ObjectName:
    """Return the identity of a part's Deployment, by default that of the replicas."""
    return ObjectName("apps/v1", "Deployment", namespace, f"{APPLICATION}-{part}")


def _is_replica(pod: Manifest) -> bool:
    return bool(pod["metadata"]["labels"].get("app.kubernetes.io/component") == replicas.PART)


def restarts(pod: Manifest) -> int:
    """Return how often the containers of a pod were restarted."""
    status = pod.get("status", {})
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return sum(container.get("restartCount", 0) for container in containers)


def is_complete(deployment: Manifest) -> bool:
    """Return whether a Deployment has exactly the wanted pods, and all are ready. True if it does not exist."""
    status: dict[str, Any] | None = deployment.get("status", {})
    if status is None:
        return True
    if not _is_observed(deployment):
        return False
    wanted = deployment["spec"]["replicas"]
    return all(status.get(count, 0) == wanted for count in ("replicas", "updatedReplicas", "availableReplicas"))


def has_every_pod(deployment: Manifest) -> bool:
    """Return whether all pods are from the newest template, ready or not."""
    status: dict[str, Any] = deployment.get("status", {})
    return _is_observed(deployment) and bool(status.get("updatedReplicas", 0) == status.get("replicas", 0))


def _is_observed(deployment: Manifest) -> bool:
    """Return whether the status of a Deployment reflects its newest specification."""
    seen, newest = deployment.get("status", {}), deployment.get("metadata", {})
    return bool(seen.get("observedGeneration", 0) >= newest.get("generation", 1))
