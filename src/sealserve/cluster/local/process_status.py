"""Status of the parts that run as processes of this machine."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sealserve.cluster import ports
from sealserve.cluster.local.connection_counts import read_connections
from sealserve.cluster.local.processes import Phase, Process
from sealserve.cluster.local.service_probe import probe
from sealserve.cluster.local.supervision import restarts
from sealserve.cluster.logs.launch_log import read_restarts, read_steps
from sealserve.cluster.logs.run_log import LoggedError, last_error, last_words, lines_of_run
from sealserve.cluster.target import NGINX, REPLICA, Health, PartStatus, State
from sealserve.deployment import Deployment
from sealserve.process_signal import is_stopped
from sealserve.workspace import Workspace

_KILLED: Final = "ended without logging an error; possibly killed by a signal such as SIGKILL"
_JUST_BEFORE: Final = timedelta(seconds=5)
_LOOPBACK: Final = "127.0.0.1"
_SERVING_IN: Final = {Phase.CURRENT: State.SERVING, Phase.NEXT: State.NEXT, Phase.LEAVING: State.LEAVING}
"""The state of a replica that listens for users, by its roll-out phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a part ended the last time. Only the supervisor, its parent process, can observe this.

    Args:
        text: How it ended, such as ``ended by signal 9 (SIGKILL)``.
        time: When it ended, UTC. None if unknown.
        restarts: Number of restarts since the part was last started on purpose.
    """

    text: str
    time: datetime | None = None
    restarts: int = 0


def endings_of(workspace: Workspace, processes: Iterable[Process]) -> Mapping[Process, Ending]:
    """Return how parts ended the last time, as recorded by the supervisor. A part that never ended has no entry."""
    return {
        process: Ending(text=found.last_exit, time=found.last_exit_at, restarts=found.restarts)
        for process, found in restarts.read_all_restarts(workspace, processes).items()
        if found.last_exit
    }


def process_status(process: Process, ending: Ending | None = None) -> PartStatus:
    """Return the status of a part that is a process of this machine: whether it runs and answers, and its last error.

    Args:
        process: The part's process. It may have ended.
        ending: How the part ended the last time. None if that is unknown, or if it never ended.
    """
    began = process.began
    lines = lines_of_run(Path(process.log), began)
    error = _latest(last_error(lines), ending)
    state, health = State.RUNNING, _health(process)
    if not process.is_alive():
        state, health = State.ENDED, Health.UNKNOWN
        error = error or last_words(lines) or LoggedError(text=_KILLED, time=None)
    return PartStatus(
        role=process.role,
        state=state,
        health=health,
        port=process.port,
        pid=process.pid,
        started=began,
        restarts=0 if ending is None else ending.restarts,
        error=error.text if error else "",
        error_time=error.time if error else None,
    )


def deployment_status(
    workspace: Workspace, deployment: Deployment, processes: Iterable[Process], *, release: str
) -> list[PartStatus]:
    """Return the status of each process of a deployment on this machine.

    Args:
        workspace: The workspace of the deployment.
        deployment: The deployment that the workspace describes.
        processes: The processes that were started.
        release: The release that replicas serve, for records that lack it.
    """
    known = list(processes)
    counts, endings = _connections(workspace, known), endings_of(workspace, known)
    found = []
    for process in known:
        ending = endings.get(process)
        if process.role.startswith(REPLICA):
            status = _replica_status(process, ending, deployment.service.name)
            if status.state is State.SERVING:  # depends on the phase: NGINX forwards users only to current replicas
                status = replace(status, state=_SERVING_IN[process.phase])
            status = replace(status, release=process.release or release)
            found.append(replace(status, connections=counts.get(_upstream(process)) if counts else None))
        elif process.role == NGINX:
            total = sum(counts.values()) if counts is not None else None
            found.append(replace(_nginx_status(process, ending, deployment), connections=total))
        else:
            found.append(process_status(process, ending))
    return found


def serves(replica: Process) -> bool:
    """Return whether a replica listens for users."""
    return ports.is_listening(replica.port or 0, session=replica.pid)


def _replica_status(process: Process, ending: Ending | None, service: str) -> PartStatus:
    inside = read_restarts(Path(process.log), process.pid)
    found = process_status(process, ending)
    found = replace(found, restarts=found.restarts + inside.count)
    # The end of the server counts as the last error, unless an error was logged later.
    if inside.time is not None and (found.error_time is None or found.error_time <= inside.time):
        found = replace(found, error=f"{inside.signal or 'an error'} ended the server", error_time=inside.time)
    if found.state is State.ENDED:
        return found
    if not serves(process):
        return replace(found, state=_progress(Path(process.log)), health=Health.UNKNOWN)
    answer = probe(_LOOPBACK, process.port or 0, service)
    health = Health.HEALTHY if answer.answers else Health.UNHEALTHY
    return replace(found, state=State.SERVING, health=health, certificate=answer.certificate)


def _nginx_status(process: Process, ending: Ending | None, deployment: Deployment) -> PartStatus:
    found = process_status(process, ending)
    if found.state is State.ENDED:
        return found
    service = deployment.service
    return replace(found, state=State.SERVING, detail=f"{service.name} at {service.endpoint}")


def _latest(logged: LoggedError | None, ending: Ending | None) -> LoggedError | None:
    """Return the logged error or the ending. An error logged shortly before the end is the reason for the end."""
    if ending is None:
        return logged
    if logged is not None and (logged.time is None or ending.time is None or ending.time - logged.time < _JUST_BEFORE):
        return logged
    return LoggedError(text=ending.text, time=ending.time)


def _health(process: Process) -> Health:
    """Return whether a running process can answer: it is not stopped, and it listens on its port."""
    if is_stopped(process.pid):
        return Health.UNHEALTHY
    if process.port is None:
        return Health.UNKNOWN
    # The broker prevents other processes from inspecting it. So this cannot check which process owns the socket.
    return Health.HEALTHY if ports.has_listener(process.port) else Health.UNHEALTHY


def _progress(log: Path) -> State:
    steps = {step.name for step in read_steps(log)}
    return State.ATTESTED if "key" in steps and "ended" not in steps else State.STARTING


def _connections(workspace: Workspace, processes: Iterable[Process]) -> Mapping[str, int] | None:
    starts = {
        _upstream(process): began
        for process in processes
        if process.role.startswith(REPLICA) and (began := process.began) is not None
    }
    return read_connections(workspace.host.logs / "nginx-access.log", starts)


def _upstream(process: Process) -> str:
    return f"{_LOOPBACK}:{process.port}"
