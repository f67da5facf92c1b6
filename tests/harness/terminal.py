"""A terminal, as the reader of a page has it: one shell that keeps its folder, its variables and its jobs."""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

GRACE_SECONDS: Final = 40


class TerminalError(AssertionError):
    """A command did not behave as expected in time."""


@dataclass(frozen=True, slots=True)
class Result:
    """Exit status of a command, and its output on both streams."""

    status: int
    lines: list[str]


class Terminal:
    """A shell in a separate session. Leaving its context ends every process that was started in it.

    Args:
        folder: Where it starts.
        environment: All of it.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = bytearray()
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._type("set -m")  # jobs get process groups of their own, as on a terminal

    def run(self, command: str, *, timeout: float) -> Result:
        """Run a command to its end. Its standard input is empty.

        Raises:
            TerminalError: It does not end within ``timeout`` seconds.
        """
        status, output = self._enter(command, "$?", timeout)
        return Result(status, output.decode(errors="replace").splitlines())

    def start(self, command: str, ready: Callable[[list[str]], bool], *, timeout: float) -> None:
        """Start a command that continues to run (it ends with ``&``), and wait until it is ready.

        Args:
            command: As it is typed.
            ready: Called with the lines that were printed since; whether that is enough.
            timeout: Seconds.

        Raises:
            TerminalError: It ended, or was not ready within ``timeout`` seconds.
        """
        start = len(self._output)
        process, _ = self._enter(command, "$!", timeout)

        def since() -> list[str]:
            return self._output[start:].decode(errors="replace").splitlines()

        deadline = time.monotonic() + timeout
        while True:
            alive = is_alive(process)  # asked first: what it printed before its end counts
            with self._changed:
                if ready(since()):
                    return
                if not alive or time.monotonic() > deadline:
                    what = "is not ready" if alive else "ended"
                    raise TerminalError(f"{command!r} {what}; it printed:\n" + "\n".join(since()))
                self._changed.wait(0.1)

    def processes(self) -> list[int]:
        """Return the process ids of everything that runs in this terminal, the shell left out."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != self._shell.pid:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    state, session = _state_and_session(int(entry.name))
                    if session == self._shell.pid and state != "Z":
                        found.append(int(entry.name))
        return found

    def close(self) -> None:
        """End everything that was started here: politely, and after a while for certain."""
        if self._shell.stdin is not None:
            self._shell.stdin.close()
        deadline = time.monotonic() + GRACE_SECONDS
        self._signal(signal.SIGTERM)
        with self._changed:
            while self.processes() and time.monotonic() < deadline:
                self._changed.wait(0.1)
        self._signal(signal.SIGKILL)
        self._shell.kill()
        self._shell.wait()
        self._reader.join(GRACE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enter(self, command: str, value: str, timeout: float) -> tuple[int, bytes]:
        """Type a command, and wait for the shell's answer; return ``value`` as the shell has it, and the output."""
        start, mark = len(self._output), secrets.token_hex(8)
        self._type(
            f"{{ {command}\n}} < /dev/null\n"
            f"__status=$? __value={value}; "
            # a function's status is no process, which could be there still when the answer is read
            f"__answer() {{ printf '\\n{mark} %d\\n' \"$__value\"; return $__status; }}; __answer"
        )
        # what runs on may print at any time, so the mark's line may have more before it
        answer = re.compile(rb"\n" + mark.encode() + rb" (\d+)\n")
        deadline = time.monotonic() + timeout
        with self._changed:
            while (found := answer.search(self._output, start)) is None:
                if time.monotonic() > deadline or self._shell.poll() is not None:
                    seen = self._output[start:].decode(errors="replace")
                    raise TerminalError(f"{command!r} does not end; it printed:\n{seen}")
                self._changed.wait(0.1)
            return int(found[1]), bytes(self._output[start : found.start()])

    def _type(self, text: str) -> None:
        if self._shell.stdin is None:
            raise RuntimeError("the shell has no standard input")
        self._shell.stdin.write(f"{text}\n".encode())
        self._shell.stdin.flush()

    def _read(self) -> None:
        stream = self._shell.stdout
        if stream is None:
            return
        with stream:
            while chunk := os.read(stream.fileno(), 65536):
                with self._changed:
                    self._output += chunk
                    self._changed.notify_all()

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def is_alive(process: int) -> bool:
    """Return whether a process runs: one that only waits to be reaped does not."""
    try:
        state, _ = _state_and_session(process)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _state_and_session(process: int) -> tuple[str, int]:
    """Return a process's state and session id.

    Source: proc_pid_stat(5): fields 3 and 6; field 2, the name, is in parentheses and may hold anything.
    """
    fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[3])
