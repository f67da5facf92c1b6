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
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.errors import UnavailableError

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProcessEndedError(UnavailableError):
    """A process ended before it was ready."""

    code = "process.ended"


class ProcessNotReadyError(UnavailableError):
    """A process was not ready in time."""

    code = "process.not-ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that was started: its role (``broker``, ``replica-0``), where it listens, where it logs.

    ``started`` is in clock ticks since the machine was booted, and ``boot`` says which boot that was.
    """

    role: str
    pid: int
    started: int
    port: int | None
    log: str
    boot: str = field(default_factory=lambda: boot_id())  # noqa: PLW0108  # it is defined below

    def is_alive(self) -> bool:
        """Whether this very process runs (a zombie does not)."""
        return self.boot == boot_id() and start_time(self.pid) == self.started

    def owns_group(self) -> bool:
        """Whether the process group with its id is still its own, though it may have ended itself.

        The kernel gives no new process an id that a group or session bears; so the group is another's only after a
        reboot, or when all of ours had ended, and then its leader is another process or is gone as well.
        """
        if self.boot != boot_id():
            return False
        return start_time(self.pid) in {self.started, None} and all(
            started >= self.started for started in group_start_times(self.pid)
        )

    def stop(self, *, grace: float = 15.0) -> None:
        """Ask it to end, wait, then kill what is left of its group. Another's process is never touched."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            wait_until(lambda: not self.is_alive(), seconds=grace)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.owns_group() and group_has_members(self.pid):
                os.killpg(self.pid, signal.SIGKILL)
                wait_until(lambda: not group_has_members(self.pid), seconds=5)  # then its ports are free
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Return what tells this boot of the machine from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def group_has_members(group: int) -> bool:
    """Return whether any process of a process group runs."""
    return bool(group_start_times(group))


def group_start_times(group: int) -> list[int]:
    """Return when the running processes of a process group started, in clock ticks since boot."""
    times = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] not in "ZX":
                    times.append(int(fields[19]))
    return times


def wait_until(condition: Callable[[], bool], *, seconds: float, interval: float = 0.05) -> bool:
    """Wait until ``condition`` holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait until the block is done; then they do what they would have done.

    Signals interrupt the main thread only: in another one, nothing needs to wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
    # One that is ignored stays ignored, here and in a process that is started meanwhile.
    waiting = [number for number in _INTERRUPTIONS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda got, _frame: held.append(got)) for number in waiting}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield
    finally:
        _hand_back(before, held)


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP do in the block what it does; others wait until the block is done.

    So what the first one makes the block undo is undone, however soon the second one comes. Ignored ones stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in _INTERRUPTIONS}
    before = {number: handler for number, handler in found.items() if callable(handler)}
    held: list[int] = []

    def first(got: int, frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, lambda later, _frame: held.append(later))
        before[signal.Signals(got)](got, frame)

    for number in before:
        signal.signal(number, first)
    try:
        yield
    finally:
        _hand_back(before, held)


def _hand_back(before: Mapping[signal.Signals, Any], held: Sequence[int]) -> None:
    """Restore the handlers, and let those do what they do with the signals that waited."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for got in held:
        signal.raise_signal(got)


class Registry:
    """The processes of one target, kept in a file, so that another command finds them.

    Args:
        path: The record, JSON, 0600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Process]:
        """Return what was started, by role; some may have ended since."""
        try:
            rows = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return {row["role"]: Process(**row) for row in rows}

    def add(self, process: Process) -> None:
        """Remember a process; it takes the place of an earlier one in its role."""
        with self._locked():
            self._write(self.all() | {process.role: process})

    def remove(self, role: str) -> None:
        """Forget a process."""
        with self._locked():
            self._write({name: process for name, process in self.all().items() if name != role})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other command change the record meanwhile: what is not in it cannot be stopped."""
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, processes: Mapping[str, Process]) -> None:
        if processes:
            rows = [asdict(process) for process in processes.values()]
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
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a process in a session of its own, its output appended to ``log``, and remember it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
        try:
            with uninterrupted():  # a process that runs and is not remembered would be left behind
                child = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, cwd=directory,
                    env=None if environment is None else dict(environment), start_new_session=True,
                )  # fmt: skip
                process = Process(role=role, pid=child.pid, started=start_time(child.pid) or 0, port=port, log=str(log))
                child.returncode = 0  # it outlives this object on purpose: no warning when it is collected
                self.add(process)
        finally:
            os.close(descriptor)
        return process


def wait_ready(
    process: Process, ready: Callable[[], bool], *, seconds: float, on_wait: Callable[[], None] = lambda: None
) -> None:
    """Wait until a process is ready.

    Raises:
        ProcessEndedError: It ended before; the message has the last error that it logged.
        ProcessNotReadyError: It was not ready in ``seconds``.
    """

    def done() -> bool:
        on_wait()
        return ready() or not process.is_alive()

    if not wait_until(done, seconds=seconds):
        raise ProcessNotReadyError(f"{process.role} was not ready in {seconds:.0f} s.", hint=f"Its log: {process.log}")
    if not ready():
        reason = last_error(Path(process.log))
        raise ProcessEndedError(f"{process.role} ended: {reason}", hint=f"Its log: {process.log}")


def last_error(log: Path) -> str:
    """Return the last line of a log that tells of an error, else the last line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it left no log."
    errors = [line for line in lines if "error[" in line]
    return (errors or [line for line in lines if line.strip()] or ["it logged nothing."])[-1].strip()
