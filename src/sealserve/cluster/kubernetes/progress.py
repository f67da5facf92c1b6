"""How far a pod is, and why not further, from its status and the last lines that its enclave logged."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sealserve.cluster.kubernetes.render_context import Manifest
from sealserve.cluster.logs.launch_log import is_refused
from sealserve.cluster.logs.run_log import LoggedError
from sealserve.cluster.target import State

_ERROR: Final = re.compile(r"error\[[a-z0-9.-]+\].*")
_QUOTED: Final = "step=quote "
_ATTESTED: Final = "step=key "
_SIGNALLED: Final = 128  # added to the number of the signal that ended a container


def state_of(pod: Manifest, log: Sequence[str] = ()) -> tuple[State, str]:
    """Return a pod's state, and the reason if it does not serve.

    Args:
        pod: As the API has it.
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
    attested = any(_ATTESTED in line for line in log)
    for container in containers:
        if attested and container.get("state", {}).get("running") is not None:
            continue  # why it ended before has passed
        if (reason := _trouble(container)) is not None:
            return _standing(reason), f"{container['name']}: {reason}"
    if (waits := _unscheduled(status)) is not None:
        return State.STARTING, waits
    if attested:
        return State.ATTESTED, "it loads the model"
    error = last_error(log)
    return (_standing(error), error) if error else (State.STARTING, _under_way(status, log))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The present run of a pod's container.

    Args:
        started: When it began, UTC; None if it does not run.
        ended: When the run before it ended, UTC; None if there was none.
        error: Why the run before it ended; None if there was none, or if it ended well.
    """

    started: datetime | None = None
    ended: datetime | None = None
    error: LoggedError | None = None


def run_of(pod: Manifest) -> Run:
    """Return the present run of a pod's first container."""
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
    """Return words for the end of a container that left no message."""
    status, reason = terminated.get("exitCode"), terminated.get("reason")
    if reason == "OOMKilled":
        return "it ended because its memory ran out"
    if isinstance(status, int) and status > _SIGNALLED:
        return f"it ended by signal {status - _SIGNALLED}"
    return f"it ended with status {status}"


def _standing(reason: str) -> State:
    return State.REFUSED if is_refused(reason) else State.STARTING


def _under_way(status: Manifest, log: Sequence[str]) -> str:
    """Return what a pod does before it is attested, as far as it can be seen from outside."""
    for container in status.get("initContainerStatuses", ()):
        if container.get("state", {}).get("running"):
            return f"it prepares the release ({container['name']})"
    return "it has made its quote, and asks the broker for its key" if any(_QUOTED in line for line in log) else ""


def last_error(log: Sequence[str]) -> str | None:
    """Return the last error that was logged, with its code."""
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
            return f"no node has room: {condition.get('message', '')}"
    return None
