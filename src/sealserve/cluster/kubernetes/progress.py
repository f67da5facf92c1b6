"""The progress of a pod, and the reason if it does not serve, from its status and the last lines of its log."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sealserve.cluster.kubernetes.render_context import Manifest
from sealserve.cluster.logs.launch_log import is_refused
from sealserve.cluster.logs.run_log import LoggedError
from sealserve.cluster.target import State

UNREADY: Final = "its port is open, but its readiness probe fails: `kubectl describe pod` shows the kubelet's reason"
_ERROR: Final = re.compile(r"error\[[a-z0-9.-]+\].*")
_QUOTED: Final = "step=quote "
_SERVER: Final = "server"  # the replica's container. Other containers have no startup probe, so they count as started
_ATTESTED: Final = "step=key "
_SIGNALLED: Final = 128  # offset of a signal's number in a container's exit status


def state_of(pod: Manifest, log: Sequence[str] = ()) -> tuple[State, str]:
    """Return a pod's state, and the reason if it does not serve.

    Args:
        pod: The pod, as the API returns it.
        log: The last lines of its server's log.
    """
    status = pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp"):
        return State.LEAVING, ""
    if any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in status.get("conditions", ())
    ):
        return State.SERVING, ""
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    unready = fails_readiness(pod)
    attested = unready or any(_ATTESTED in line for line in log)
    for container in containers:
        if attested and container.get("state", {}).get("running") is not None:
            continue  # the reason for an earlier end no longer applies
        if (reason := _trouble(container)) is not None:
            return _standing(reason), f"{container['name']}: {reason}"
    if (waits := _unscheduled(status)) is not None:
        return State.STARTING, waits
    if attested:
        return State.ATTESTED, UNREADY if unready else "loading the model"
    error = last_error(log)
    return (_standing(error), error) if error else (State.STARTING, _under_way(status, log))


def fails_readiness(pod: Manifest) -> bool:
    """Return whether a replica has started, but does not pass its readiness probe."""
    return any(
        container["name"] == _SERVER and container.get("started") is True and container.get("ready") is False
        for container in pod.get("status", {}).get("containerStatuses") or ()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The current run of a pod's container.

    Args:
        started: Start of the run, UTC. None if the container does not run.
        ended: End of the previous run, UTC. None if no run has ended.
        error: Why the previous run ended. None if no run has ended, or if it succeeded.
    """

    started: datetime | None = None
    ended: datetime | None = None
    error: LoggedError | None = None


def run_of(pod: Manifest) -> Run:
    """Return the current run of a pod's first container."""
    for container in pod.get("status", {}).get("containerStatuses") or ():
        before = (container.get("lastState") or {}).get("terminated") or {}
        running = (container.get("state") or {}).get("running") or {}
        ended = _time(before.get("finishedAt"))
        error = None
        if before and before.get("exitCode") != 0:
            words = last_error((before.get("message") or "").splitlines()) or _ending(before)
            error = LoggedError(text=words, time=ended)
        return Run(started=_time(running.get("startedAt")), ended=ended, error=error)
    return Run()


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if isinstance(text, str) else None
    except ValueError:
        return None


def _ending(terminated: Mapping[str, Any]) -> str:
    """Return a description of the end of a container that left no message."""
    status, reason = terminated.get("exitCode"), terminated.get("reason")
    if reason == "OOMKilled":
        return "it ended because it ran out of memory"
    if isinstance(status, int) and status > _SIGNALLED:
        return f"it ended by signal {status - _SIGNALLED}"
    return f"it ended with exit status {status}"


def _standing(reason: str) -> State:
    return State.REFUSED if is_refused(reason) else State.STARTING


def _under_way(status: Manifest, log: Sequence[str]) -> str:
    """Return the activity of a pod before its attestation, as far as it is visible from outside."""
    for container in status.get("initContainerStatuses", ()):
        if container.get("state", {}).get("running"):
            return f"preparing the release ({container['name']})"
    return (
        "waiting for the broker to check its quote and release the key" if any(_QUOTED in line for line in log) else ""
    )


def last_error(log: Sequence[str]) -> str | None:
    """Return the last logged error, with its code."""
    errors = [found[0] for line in log if (found := _ERROR.search(line))]
    return errors[-1] if errors else None


def _trouble(container: dict[str, Any]) -> str | None:
    state, before = container.get("state", {}), container.get("lastState", {})
    ended = state.get("terminated") or before.get("terminated")
    waiting = state.get("waiting", {})
    if waiting.get("reason") in {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "CreateContainerConfigError"}:
        return f"{waiting['reason']}: {waiting.get('message', '')}"
    if not ended or ended.get("exitCode") == 0:
        return None
    message = ended.get("message", "")
    return last_error(message.splitlines()) or _ending(ended)


def _unscheduled(status: Manifest) -> str | None:
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"no node has capacity: {condition.get('message', '')}"
    return None
