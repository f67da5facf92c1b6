"""How often the supervisor has started a part again, and why: what `sealserve status` shows of it."""

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
    """What the supervisor does for a part."""

    RUNNING = restart_history.RUNNING
    """The part runs, and is started again if it ends."""
    WAITING = restart_history.WAITING
    """The part has ended. It is started again after a pause."""
    FAILED = restart_history.FAILED
    """The part has ended too often in a row. It stays down until the next `sealserve up`."""


class Restarts(BaseModel):
    """What the supervisor has written of a part.

    Args:
        pid: The process that this is about: the one that runs, or the one that ended last.
        state: What the supervisor does for the part.
        restarts: How often it was started again since it was last started on purpose.
        last_exit: How it ended the last time, such as ``ended by signal 9 (SIGKILL)``; empty if it never ended.
        last_exit_at: When that was, UTC.
        next_start_at: When it is started again, UTC; only while it is waiting.
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
    """Return what the supervisor has written of a part; see `read_all_restarts`.

    Args:
        workspace: The workspace that the part belongs to.
        process: The part as the record names it; it may have ended.
    """
    return read_all_restarts(workspace, [process]).get(process)


def read_all_restarts(workspace: Workspace, processes: Iterable[Process]) -> Mapping[Process, Restarts]:
    """Return what the supervisor has written of parts. The file is read once.

    Args:
        workspace: The workspace that the parts belong to.
        processes: The parts as the record names them; they may have ended.

    Returns:
        The restarts of each part that a supervisor watches. There are none if the file is damaged or of another boot.
        The file is information, so a damaged one is not an error.
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
