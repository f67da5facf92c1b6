"""Processes that go on when the command that started them has ended, and can be found again.

A process is known by its id and its start time (``/proc/PID/stat``, field 22), so that a later process with the same
id is never taken for it. Each is the leader of a session of its own: a terminal's Ctrl-C does not reach it, and
stopping it stops its whole group.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local.supervision.requests import Supervision
from sealserve.cluster.local.supervision.supervised_part import part_environment
from sealserve.cluster.logs import run_log
from sealserve.errors import UnavailableError
from sealserve.interruptions import uninterrupted
from sealserve.process_signal import (
    ProcessFacts,
    boot_id,
    group_members,
    kill_group,
    send_signal,
    start_time,
    user_of,
)
from sealserve.regular_file import (
    LARGEST_TEXT,
    InputFileMissingError,
    open_own,
    open_regular,
)


class ProcessEndedError(UnavailableError):
    """A process ended before it was ready."""

    code = "process.ended"


class Phase(StrEnum):
    """Where a replica stands in a roll-out. Every other process is always `CURRENT`."""

    CURRENT = "current"
    """NGINX passes new connections to it, or will as soon as it serves."""
    NEXT = "next"
    """It starts beside the current replica with its role, and has no connection yet."""
    LEAVING = "leaving"
    """NGINX passes no new connection to it. It ends when its last connection has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that was started: its role (``broker``, ``replica-0``), where it listens, where it logs.

    ``rest_port`` is where a replica listens for REST, or None. ``connection_age`` is after how many seconds a replica
    drains a connection, or None where that is not known. ``started`` is in clock ticks since the machine was
    booted, and ``boot`` says which boot that was. ``owner`` is the user who recorded it: a process of another user is
    not the recorded one, except that root starts some as others. ``release`` is the name of the
    release that a replica serves.
    """

    role: str
    pid: int
    started: int
    port: int | None
    log: str
    rest_port: int | None = None
    connection_age: int | None = None
    boot: str = field(default_factory=boot_id)
    owner: int = field(default_factory=os.geteuid)
    release: str = ""
    phase: Phase = Phase.CURRENT

    @property
    def name(self) -> str:
        """The name in the record, which is the role of a current process. Several may be leaving a role at once."""
        match self.phase:
            case Phase.CURRENT:
                return self.role
            case Phase.NEXT:
                return f"{self.role}-{self.phase}"
            case Phase.LEAVING:
                return f"{self.role}-{self.phase}-{self.pid}"

    @property
    def began(self) -> datetime | None:
        """When it started, UTC; None if that was before this boot of the machine."""
        if self.boot != boot_id():
            return None
        ago = time.clock_gettime(time.CLOCK_BOOTTIME) - self.started / os.sysconf("SC_CLK_TCK")
        return datetime.now(UTC) - timedelta(seconds=max(0.0, ago))

    def is_alive(self) -> bool:
        """Whether this very process runs (a zombie does not)."""
        return (
            self.pid > 1
            and self.boot == boot_id()
            and start_time(self.pid) == self.started
            and (self.owner == 0 or user_of(self.pid) == self.owner)
        )

    def owns_group(self) -> bool:
        """Whether the process group with its id is still its own, though it may have ended itself.

        The kernel gives no new process an id that a group or session bears; so the group is another's only after a
        reboot, or when all of ours had ended, and then its leader is another process or is gone as well.
        """
        if self.pid <= 1 or self.boot != boot_id():
            return False
        return start_time(self.pid) in {self.started, None} and all(map(self._is_member, self._group().values()))

    def stop(self, *, grace: float = 15.0) -> None:
        """Ask it to end, wait, then kill what is left of its group. Another's process is never touched."""
        with contextlib.suppress(PermissionError):
            if send_signal(self.pid, signal.SIGTERM, if_still=self.is_alive):
                wait_until(lambda: not self.is_alive(), seconds=grace)
            if self.owns_group():
                wait_until(lambda: not kill_group(self.pid, if_member=self._is_member), seconds=5)  # its ports are free
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)

    def _group(self) -> Mapping[int, ProcessFacts]:
        return group_members(self.pid)

    def _is_member(self, found: ProcessFacts) -> bool:
        return found.started >= self.started and found.session == self.pid


def group_has_members(group: int) -> bool:
    """Return whether any process of a process group runs."""
    return bool(group_members(group))


def wait_until(condition: Callable[[], bool], *, seconds: float, interval: float = 0.05) -> bool:
    """Wait until ``condition`` holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


# A replica has a number. Other roles are words, such as "broker", or those of the tests' cluster ("kube-apiserver").
_ROLE: Final = r"^(replica-[0-9]{1,5}|(?!replica-)[a-z][a-z0-9]*(-[a-z0-9]+)*)\Z"


class _Row(BaseModel):
    """A process as the record has it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, regex_engine="python-re")

    role: Annotated[str, StringConstraints(pattern=_ROLE, max_length=63)]
    pid: Annotated[int, Field(gt=1, lt=2**22)]  # PID_MAX_LIMIT, proc(5)
    started: Annotated[int, Field(ge=0)]
    port: Annotated[int, Field(ge=0, lt=2**16)] | None
    log: str
    rest_port: Annotated[int, Field(ge=0, lt=2**16)] | None = None
    connection_age: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    boot: str
    release: Annotated[str, StringConstraints(max_length=255)] = ""
    phase: Annotated[Phase, Field(strict=False)] = Phase.CURRENT


_ROWS: Final = TypeAdapter(list[_Row])


class Registry:
    """The processes of one target, kept in a file, so that another command finds them.

    Args:
        path: The record, JSON, 0600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._supervision = Supervision(path.parent)

    def all(self) -> dict[str, Process]:
        """Return what was started, by `Process.name`; some may have ended since.

        Raises:
            InputError: `process.record`: The record is not one that sealserve wrote: it would say which processes are
                stopped.
            InputFileError: It is a link, a pipe, or cannot be read.
        """
        try:
            with open_regular(self._path, follow_links=False) as descriptor:
                owner = os.fstat(descriptor).st_uid
                content = os.pread(descriptor, LARGEST_TEXT, 0)
        except InputFileMissingError:
            return {}
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return {}  # a crash of the machine has left half of it
        try:
            rows = _ROWS.validate_python(found)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ClusterCode.PROCESS_RECORD.error(
                f"{self._path} is not the record of the processes that were started: {where}: {first['msg']}.",
                hint="Stop what still runs by hand, and remove the file.",
            ) from error
        processes = (Process(**row.model_dump(), owner=owner) for row in rows)
        return {process.name: process for process in processes}

    def add(self, process: Process) -> None:
        """Remember a process; it takes the place of an earlier one with its name."""
        with self._locked():
            self._write(self.all() | {process.name: process})

    def remove(self, removed: str) -> None:
        """Forget the process with a name."""
        with self._locked():
            self._write({name: process for name, process in self.all().items() if name != removed})

    def change_phases(self, phases: Mapping[int, Phase]) -> None:
        """Give processes other phases, all in one write: a roll-out that is killed leaves the old or the new state.

        Args:
            phases: The new phases, by process id.
        """
        with self._locked():
            changed = [replace(found, phase=phases.get(found.pid, found.phase)) for found in self.all().values()]
            self._write({process.name: process for process in changed})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other command change the record meanwhile: what is not in it cannot be stopped."""
        with open_own(self._path.with_suffix(".lock"), os.O_RDWR) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def _write(self, processes: Mapping[str, Process]) -> None:
        if processes:
            rows = [_Row(**{name: getattr(process, name) for name in _Row.model_fields}).model_dump()
                    for process in processes.values()]  # fmt: skip
            write_file(self._path, json.dumps(rows, indent=1).encode(), mode=PRIVATE)
        else:
            self._path.unlink(missing_ok=True)

    def start(
        self,
        role: str,
        command: Sequence[str],
        *,
        log: Path,
        port: int | None = None,
        rest_port: int | None = None,
        connection_age: int | None = None,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        release: str = "",
        phase: Phase = Phase.CURRENT,
    ) -> Process:
        """Start a process in a session of its own, its output appended to ``log``, and remember it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            open_own(log, os.O_WRONLY | os.O_APPEND) as descriptor,
            uninterrupted(),  # a process that runs and is not remembered would be left behind
        ):
            # A supervisor, where one runs, starts the part: only a parent learns how its child ends.
            started = None
            if environment is None:
                started = self._supervision.start(role, command, log=descriptor, directory=directory)
            if started is None:
                child = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, cwd=directory,
                    env=part_environment(os.environ if environment is None else environment), start_new_session=True,
                )  # fmt: skip
                child.returncode = 0  # it outlives this object on purpose: no warning when it is collected
                started = child.pid, start_time(child.pid) or 0
            process = Process(
                role=role, pid=started[0], started=started[1], port=port, rest_port=rest_port, log=str(log),
                connection_age=connection_age, release=release, phase=phase,
            )  # fmt: skip
            self.add(process)
        return process

    def start_again(self, ended: Process) -> Process:
        """Let the supervisor start a part again that has ended, and remember its new process.

        Raises:
            UnavailableError: `supervisor.no-answer`: The supervisor did not start it.
        """
        with open_own(Path(ended.log), os.O_WRONLY | os.O_APPEND) as descriptor, uninterrupted():
            started = self._supervision.start_again(ended.pid, log=descriptor)
            if started is None:
                raise ClusterCode.SUPERVISOR_NO_ANSWER.error(
                    f"{ended.role} cannot be started again: the supervisor does not run.",
                    hint="Start both with `sealserve up`.",
                )
            process = replace(ended, pid=started[0], started=started[1])
            self.add(process)
        return process

    def adopt(self, process: Process, command: Sequence[str]) -> None:
        """Let the supervisor, if one runs, watch a process that ran before it did.

        Args:
            process: The process.
            command: The command line that starts it again.
        """
        self._supervision.adopt(process.role, process.pid, process.started, command)


def wait_ready(
    process: Process, ready: Callable[[], bool], *, seconds: float, on_wait: Callable[[], None] = lambda: None
) -> None:
    """Wait until a process is ready.

    Raises:
        ProcessEndedError: It ended before; the message has the last error that it logged.
        UnavailableError: `process.not-ready`: It was not ready in ``seconds``.
    """

    def done() -> bool:
        on_wait()
        return ready() or not process.is_alive()

    if not wait_until(done, seconds=seconds):
        raise ClusterCode.PROCESS_NOT_READY.error(
            f"{process.role} was not ready in {seconds:.0f} s.", hint=f"Its log: {process.log}"
        )
    if not ready():
        reason = last_error(Path(process.log), since=process.began)
        raise ProcessEndedError(f"{process.role} ended: {reason}", hint=f"Its log: {process.log}")


def last_error(log: Path, *, since: datetime | None = None) -> str:
    """Return the last error that a log tells of, else the last line.

    Args:
        log: The log.
        since: When the run began that counts: an earlier run's errors have passed. None for every run.
    """
    if not log.is_file() or log.is_symlink():
        return "it left no log."
    lines = run_log.lines_of_run(log, since)
    if (error := run_log.last_error(lines)) is not None:
        return error.text
    return lines[-1].text.strip() if lines else "it logged nothing."
