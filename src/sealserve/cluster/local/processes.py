"""Processes that continue after the command that started them, and that later commands can find.

A process is identified by its ID and its start time (``/proc/PID/stat``, field 22). So a later process with the same
ID is never mistaken for it. Each process leads its own session: a terminal's Ctrl-C does not reach it, and stopping it
stops its whole process group.
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
    """The phase of a replica in a roll-out. Every other process is always `CURRENT`."""

    CURRENT = "current"
    """NGINX sends new connections to it, or will do so as soon as it serves."""
    NEXT = "next"
    """It starts next to the current replica with its role, and has no connections yet."""
    LEAVING = "leaving"
    """NGINX sends no new connections to it. It ends after its last connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A started process: its role (``broker``, ``replica-0``), its port and its log.

    ``rest_port`` is the port of a replica for REST, or None. ``connection_age`` is the age in seconds at which a
    replica drains a connection, or None where it is unknown. ``started`` is in clock ticks since the machine booted,
    and ``boot`` identifies this boot. ``owner`` is the user who recorded the process. A process of a different user is
    not the recorded process, except that root starts some processes as other users. ``release`` is the name of the
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
        """The name in the record: the role of a current process. Several processes may be leaving the same role."""
        match self.phase:
            case Phase.CURRENT:
                return self.role
            case Phase.NEXT:
                return f"{self.role}-{self.phase}"
            case Phase.LEAVING:
                return f"{self.role}-{self.phase}-{self.pid}"

    @property
    def began(self) -> datetime | None:
        """The start time, UTC. None if it was before the current boot of the machine."""
        if self.boot != boot_id():
            return None
        ago = time.clock_gettime(time.CLOCK_BOOTTIME) - self.started / os.sysconf("SC_CLK_TCK")
        return datetime.now(UTC) - timedelta(seconds=max(0.0, ago))

    def is_alive(self) -> bool:
        """Whether exactly this process runs. A zombie does not count as running."""
        return (
            self.pid > 1
            and self.boot == boot_id()
            and start_time(self.pid) == self.started
            and (self.owner == 0 or user_of(self.pid) == self.owner)
        )

    def owns_group(self) -> bool:
        """Whether the process group with its ID still belongs to it, even if the process itself has ended.

        The kernel never assigns an ID to a new process while a group or session has this ID. So the group belongs to
        other processes only after a reboot, or after all members had ended. In both cases its leader is a different
        process or has ended too.
        """
        if self.pid <= 1 or self.boot != boot_id():
            return False
        return start_time(self.pid) in {self.started, None} and all(map(self._is_member, self._group().values()))

    def stop(self, *, grace: float = 15.0) -> None:
        """Send SIGTERM, wait ``grace`` seconds, then kill the rest of its group. Other processes are never affected."""
        with contextlib.suppress(PermissionError):
            if send_signal(self.pid, signal.SIGTERM, if_still=self.is_alive):
                wait_until(lambda: not self.is_alive(), seconds=grace)
            if self.owns_group():
                wait_until(lambda: not kill_group(self.pid, if_member=self._is_member), seconds=5)  # frees its ports
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
    """Wait until ``condition`` is true. Return whether it became true before the timeout."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


# A replica has a number. Other roles are words, such as "broker", or roles of the test cluster ("kube-apiserver").
_ROLE: Final = r"^(replica-[0-9]{1,5}|(?!replica-)[a-z][a-z0-9]*(-[a-z0-9]+)*)\Z"


class _Row(BaseModel):
    """A process in the record's file format."""

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
    """The recorded processes of one target, in a file, so that other commands can find them.

    Args:
        path: The record: a JSON file with mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._supervision = Supervision(path.parent)

    def all(self) -> dict[str, Process]:
        """Return the recorded processes by `Process.name`. Some may have ended since.

        Raises:
            InputError: `process.record` if sealserve did not write the record, which decides which processes are
                stopped.
            InputFileError: It is a link or a pipe, or cannot be read.
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
            return {}  # the machine crashed while the file was written
        try:
            rows = _ROWS.validate_python(found)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ClusterCode.PROCESS_RECORD.error(
                f"{self._path} is not a valid record of started processes: {where}: {first['msg']}.",
                hint="Stop the processes that still run, and remove the file.",
            ) from error
        processes = (Process(**row.model_dump(), owner=owner) for row in rows)
        return {process.name: process for process in processes}

    def add(self, process: Process) -> None:
        """Record a process. It replaces an earlier process with the same name."""
        with self._locked():
            self._write(self.all() | {process.name: process})

    def remove(self, removed: str) -> None:
        """Remove the process with a name from the record."""
        with self._locked():
            self._write({name: process for name, process in self.all().items() if name != removed})

    def change_phases(self, phases: Mapping[int, Phase]) -> None:
        """Change the phases of processes with a single write: a killed roll-out leaves the old or the new state.

        Args:
            phases: The new phases, by process ID.
        """
        with self._locked():
            changed = [replace(found, phase=phases.get(found.pid, found.phase)) for found in self.all().values()]
            self._write({process.name: process for process in changed})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Prevent other commands from changing the record: a process that is missing from it cannot be stopped."""
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
        """Start a process in its own session, append its output to ``log``, and record it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            open_own(log, os.O_WRONLY | os.O_APPEND) as descriptor,
            uninterrupted(),  # a process that runs but is not recorded would never be stopped
        ):
            # If a supervisor runs, it starts the part: only a parent process learns how its child ends.
            started = None
            if environment is None:
                started = self._supervision.start(role, command, log=descriptor, directory=directory)
            if started is None:
                child = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, cwd=directory,
                    env=part_environment(os.environ if environment is None else environment), start_new_session=True,
                )  # fmt: skip
                child.returncode = 0  # the child outlives this object on purpose, so suppress Python's warning
                started = child.pid, start_time(child.pid) or 0
            process = Process(
                role=role, pid=started[0], started=started[1], port=port, rest_port=rest_port, log=str(log),
                connection_age=connection_age, release=release, phase=phase,
            )  # fmt: skip
            self.add(process)
        return process

    def start_again(self, ended: Process) -> Process:
        """Make the supervisor restart a part that has ended, and record its new process.

        Raises:
            UnavailableError: `supervisor.no-answer` if the supervisor did not start it.
        """
        with open_own(Path(ended.log), os.O_WRONLY | os.O_APPEND) as descriptor, uninterrupted():
            started = self._supervision.start_again(ended.pid, log=descriptor)
            if started is None:
                raise ClusterCode.SUPERVISOR_NO_ANSWER.error(
                    f"{ended.role} cannot be restarted: the supervisor does not run.",
                    hint="Start both with `sealserve up`.",
                )
            process = replace(ended, pid=started[0], started=started[1])
            self.add(process)
        return process

    def adopt(self, process: Process, command: Sequence[str]) -> None:
        """Make the supervisor, if it runs, watch a process that was started before it.

        Args:
            process: The process.
            command: The command line for a restart.
        """
        self._supervision.adopt(process.role, process.pid, process.started, command)


def wait_ready(
    process: Process, ready: Callable[[], bool], *, seconds: float, on_wait: Callable[[], None] = lambda: None
) -> None:
    """Wait until a process is ready.

    Raises:
        ProcessEndedError: It ended before it was ready. The message contains the last error from its log.
        UnavailableError: `process.not-ready` if it was not ready within ``seconds``.
    """

    def done() -> bool:
        on_wait()
        return ready() or not process.is_alive()

    if not wait_until(done, seconds=seconds):
        raise ClusterCode.PROCESS_NOT_READY.error(
            f"{process.role} was not ready within {seconds:.0f} s.", hint=f"Read its log: {process.log}"
        )
    if not ready():
        reason = last_error(Path(process.log), since=process.began)
        raise ProcessEndedError(
            f"{process.role} ended before it was ready: {reason}", hint=f"Read its log: {process.log}"
        )


def last_error(log: Path, *, since: datetime | None = None) -> str:
    """Return the last error in a log, or else its last line.

    Args:
        log: The log.
        since: Start of the current run. Errors of earlier runs are ignored. None for all runs.
    """
    if not log.is_file() or log.is_symlink():
        return "it has no log."
    lines = run_log.lines_of_run(log, since)
    if (error := run_log.last_error(lines)) is not None:
        return error.text
    return lines[-1].text.strip() if lines else "its log is empty."
