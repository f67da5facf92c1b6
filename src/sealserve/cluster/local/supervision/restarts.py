"""Reads how often and why the supervisor has restarted a part, for `sealserve status`."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.cluster.local.processes import Process
from sealserve.cluster.local.supervision import restart_history
from sealserve.process_signal import boot_id
from sealserve.regular_file import InputFileError, read_regular
from sealserve.workspace import Workspace

_LONGEST: Final = 500


class Supervised(StrEnum):
    """The supervisor's state of a part."""

    RUNNING = restart_history.RUNNING
    """The part runs. If it ends, the supervisor restarts it."""
    WAITING = restart_history.WAITING
    """The part has ended. The supervisor restarts it after a pause."""
    FAILED = restart_history.FAILED
    """The part has ended too many times in a row. It stays down until the next `sealserve up`."""


class Restarts(BaseModel):
    """The supervisor's entry about a part.

    Args:
        pid: The process that runs, or that ended last.
        state: The supervisor's state of the part.
        restarts: Number of restarts since the part was last started on purpose.
        last_exit: How it ended the last time, such as ``ended by signal 9 (SIGKILL)``. Empty if it never ended.
        last_exit_at: When it ended the last time, UTC.
        next_start_at: When it will be restarted, UTC. Only in the state `WAITING`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    pid: int
    state: Supervised
    restarts: Annotated[int, Field(ge=0)]
    last_exit: Annotated[str, StringConstraints(max_length=_LONGEST, pattern=r"^[ -~]*$")] = ""
    last_exit_at: datetime | None = None
    next_start_at: datetime | None = None


class _File(BaseModel):
    boot: str
    parts: dict[str, Restarts]


def read_restarts(workspace: Workspace, process: Process) -> Restarts | None:
    """Return the supervisor's entry about a part; see `read_all_restarts`.

    Args:
        workspace: The workspace of the part.
        process: The part from the record. It may have ended.
    """
    return read_all_restarts(workspace, [process]).get(process)


def read_all_restarts(workspace: Workspace, processes: Iterable[Process]) -> Mapping[Process, Restarts]:
    """Return the supervisor's entries about parts. The file is read once.

    Args:
        workspace: The workspace of the parts.
        processes: The parts from the record. They may have ended.

    Returns:
        The entry of each part that a supervisor watches. Empty if the file is damaged or from a different boot. The
        file is only information, so a damaged file is not an error.
    """
    try:
        content = read_regular(workspace.host.run / restart_history.FILE, follow_links=False)
        found = _File.model_validate_json(content)
    except (InputFileError, ValidationError):
        return {}
    if found.boot != boot_id():
        return {}
    return {
        process: entry
        for process in processes
        if (entry := found.parts.get(process.role)) is not None and entry.pid == process.pid
    }
