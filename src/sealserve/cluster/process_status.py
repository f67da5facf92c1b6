"""The state of the parts that are processes of this machine."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from sealserve.cluster import ports
from sealserve.cluster.connection_counts import read_connections
from sealserve.cluster.launch_log import read_restarts, read_steps
from sealserve.cluster.processes import Process
from sealserve.cluster.run_log import LoggedError, last_error, last_words, lines_of_run
from sealserve.cluster.service_probe import probe
from sealserve.cluster.target import NGINX, REPLICA, Health, PartStatus, State
from sealserve.deployment import Deployment
from sealserve.process_signal import is_stopped
from sealserve.workspace import Workspace

_KILLED: Final = "it logged no error: a signal such as SIGKILL may have ended it"
_LOOPBACK: Final = "127.0.0.1"


def process_status(process: Process) -> PartStatus:
    """Return the state of a part that is a process of this machine: whether it runs and answers, and its last error.

    Args:
        process: The part's process. It may have ended.
    """
    began = process.began
    lines = lines_of_run(Path(process.log), began)
    error = last_error(lines)
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
        error=error.text if error else "",
        error_time=error.time if error else None,
    )


def deployment_status(
    workspace: Workspace, deployment: Deployment, processes: Iterable[Process], *, release: str
) -> list[PartStatus]:
    """Return the state of each process of a deployment on this machine.

    Args:
        workspace: Whose deployment it is.
        deployment: What it describes.
        processes: What was started.
        release: The release that replicas serve.
    """
    known = list(processes)
    counts = _connections(workspace, known)
    found = []
    for process in known:
        if process.role.startswith(REPLICA):
            status = replace(_replica_status(process, deployment.service.name), release=release)
            found.append(replace(status, connections=counts.get(_upstream(process)) if counts else None))
        elif process.role == NGINX:
            total = sum(counts.values()) if counts is not None else None
            found.append(replace(_nginx_status(process, deployment), connections=total))
        else:
            found.append(process_status(process))
    return found


def serves(replica: Process) -> bool:
    """Return whether a replica listens for users."""
    return ports.is_listening(replica.port or 0, session=replica.pid)


def _replica_status(process: Process, service: str) -> PartStatus:
    restarts = read_restarts(Path(process.log), process.pid)
    found = replace(process_status(process), restarts=restarts.count)
    # What ended the server the last time counts as the last error, if nothing was logged since.
    if restarts.time is not None and (found.error_time is None or found.error_time <= restarts.time):
        found = replace(found, error=f"{restarts.signal or 'an error'} ended the server", error_time=restarts.time)
    if found.state is State.ENDED:
        return found
    if not serves(process):
        return replace(found, state=_progress(Path(process.log)), health=Health.UNKNOWN)
    answer = probe(_LOOPBACK, process.port or 0, service)
    health = Health.HEALTHY if answer.answers else Health.UNHEALTHY
    return replace(found, state=State.SERVING, health=health, certificate_end=answer.certificate_end)


def _nginx_status(process: Process, deployment: Deployment) -> PartStatus:
    found = process_status(process)
    if found.state is State.ENDED:
        return found
    service = deployment.service
    return replace(found, state=State.SERVING, detail=f"{service.name} at {service.endpoint}")


def _health(process: Process) -> Health:
    """Return whether a process that runs can answer: it is not stopped, and it listens where it should."""
    if is_stopped(process.pid):
        return Health.UNHEALTHY
    if process.port is None:
        return Health.UNKNOWN
    # The broker forbids other processes to look into it, so this does not tell whose socket it is.
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
