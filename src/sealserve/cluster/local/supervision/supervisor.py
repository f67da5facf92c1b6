"""The supervisor of a local deployment: one small process that starts parts and restarts them.

`sealserve up` starts it, and `sealserve down` stops it before it stops the parts. In between:

1. A command asks it, over a Unix socket, to start each part. So the supervisor is the part's parent process and can
   observe how the part ends. It adopts parts that were started before it. Their exit status stays unknown.
2. A part ends. While a command changes the deployment, the supervisor waits: the command may have stopped the part.
3. The record (``local.json``) shows whether the end was intended: a part that was stopped on purpose is not in it.
4. After a pause, which doubles with each failure, the supervisor runs
   `sealserve.cluster.local.supervision.restart`. This program takes the lock of the deployment, checks the record
   again, and asks the supervisor to start the part with the same command.
5. After `ATTEMPTS` failures in a row, the supervisor stops trying. The part stays down until the next `sealserve up`.

Command lines and the environment are kept only in memory. So a record that another user has written cannot make the
supervisor run a program, and secrets in the environment are never written to a file.

This module has few imports, because the process lives as long as the deployment.

Source: pidfd_open(2), unix(7) SO_PEERCRED and SCM_RIGHTS.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sealserve.cluster.local.supervision import restart_history
from sealserve.cluster.local.supervision.restart_history import History
from sealserve.cluster.local.supervision.state_files import DEPLOYMENT_LOCK, RECORD
from sealserve.cluster.local.supervision.supervised_part import Part, kill_child, start_part
from sealserve.process_signal import start_time

_LOG: Final = logging.getLogger(__name__)

SOCKET: Final = "supervisor.sock"
ATTEMPTS: Final = 8
"""Consecutive failures after which a part stays down. The pauses add up to two to three minutes."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
LONG_RUN: Final = 300.0
"""Seconds. After a run of at least this length, earlier failures no longer count."""

LARGEST_MESSAGE: Final = 2**20
_CLIENT_SECONDS: Final = 5.0
_LOCK: Final = "supervisor.lock"
_POLL: Final = 0.2
"""Seconds between two checks of a lock that a command holds."""
_PATROL: Final = 30.0
"""Seconds between two checks that the workspace still exists."""
_DAMAGED: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Exceptions that reading a file with unexpected content can raise."""
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that are unrelated to a file: the machine currently has no free memory or descriptors."""


class Supervisor:
    """Watches the parts of one workspace.

    Args:
        directory: The folder that contains ``.sealserve``.
        first_pause: Seconds before the first restart of a part. Each further pause is twice as long.
    """

    def __init__(self, directory: Path, *, first_pause: float = FIRST_PAUSE) -> None:
        self._directory = directory
        self._root = directory / ".sealserve"
        self._run = self._root / "host" / "run"
        self._first_pause = first_pause
        self._parts: dict[int, Part] = {}
        self._history = History(self._run)
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Watch the parts until a signal ends this process, or its workspace is removed."""
        # 1. Allow one supervisor per workspace. The kernel releases the lock when the process ends.
        lock = os.open(self._run / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("Another supervisor of this workspace is already running.")
        # 2. Listen on a socket that only this user can connect to.
        listener = socket.socket(socket.AF_UNIX)
        with short_path(self._run) as folder:
            (folder / SOCKET).unlink(missing_ok=True)
            before = os.umask(0o177)
            listener.bind(str(folder / SOCKET))
            os.umask(before)
        listener.listen()
        ours = (self._run / SOCKET).stat()
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))
        self._history.load()
        _LOG.info("the supervisor runs as process %d", os.getpid())
        # 3. Handle requests, ends of processes, and restarts that are due.
        while _is_same(self._run / SOCKET, ours):
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            for part in list(self._parts.values()):
                self._settle(part)
        _LOG.error("the workspace was removed: the supervisor ends")

    def _timeout(self) -> float:
        """Return the seconds until the next task that no descriptor signals."""
        due = [part.due for part in self._parts.values() if part.due is not None and part.helper is None]
        if not due:
            return _PATROL
        if self._is_busy():
            return _POLL
        return min(max(min(due) - time.monotonic(), 0), _PATROL)

    # Requests from commands

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:  # such as no free descriptor: the request waits until one is free
            _LOG.warning("a request cannot be accepted now: %s", error.strerror)
            time.sleep(_POLL)
            return
        with connection, contextlib.ExitStack() as stack:
            connection.settimeout(_CLIENT_SECONDS)
            _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if user != os.geteuid():
                return
            try:
                content, descriptors, _, _ = socket.recv_fds(connection, LARGEST_MESSAGE, 1)
                for descriptor in descriptors:
                    stack.callback(os.close, descriptor)
                while (chunk := connection.recv(LARGEST_MESSAGE)) and len(content) <= LARGEST_MESSAGE:
                    content += chunk
                answer = self._answer(json.loads(content), descriptors)
                connection.sendall(json.dumps(answer).encode())
            except (*_DAMAGED, IndexError) as error:
                _LOG.warning("a request was dropped: %s", type(error).__name__)

    def _answer(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> Mapping[str, Any]:
        try:
            match request["do"]:
                case "start":
                    part = start_part(request["role"], request["command"], request["directory"], descriptors[0])
                    self._watch(part)
                case "again":
                    part = self._start_again(self._parts[request["pid"]], descriptors[0])
                case "adopt":
                    return self._adopt(request)
                case "ping":
                    return {}
                case other:
                    raise ValueError(other)
        except OSError as error:  # the program is missing, or memory is exhausted: the command reports it
            return {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
        self._history.note(part, restart_history.RUNNING)
        return {"pid": part.pid, "started": part.started}

    def _start_again(self, before: Part, log: int) -> Part:
        if before.due is None:
            raise ValueError("it runs")
        part = start_part(before.role, before.command, before.directory, log)
        part.failures, part.restarts = before.failures, before.restarts + 1
        part.last_exit, part.last_exit_at = before.last_exit, before.last_exit_at
        self._watch(part)
        if self._parts.get(before.pid) is before:
            del self._parts[before.pid]
        _LOG.info("%s was restarted as process %d", part.role, part.pid)
        return part

    def _adopt(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Watch a part that was started before this process."""
        pid, started = request["pid"], request["started"]
        if pid not in self._parts and (start_time(pid) or 0) == started:
            part = Part(
                role=request["role"], command=request["command"], directory=None, pid=pid, started=started
            )  # fmt: skip
            self._history.restore(part)
            try:
                self._watch(part)
            except OSError as error:  # the part has ended meanwhile, or the machine has no free descriptor
                _LOG.warning("%s (process %d) is not watched: %s", part.role, part.pid, error.strerror)
                return {}
            self._history.note(part, restart_history.RUNNING)
        return {}

    # Ends of processes

    def _watch(self, part: Part) -> None:
        """Watch a part until it ends.

        Raises:
            OSError: It cannot be watched. A child process is killed, because no process could track it.
        """

        def ended() -> None:
            part.note_end()
            if time.monotonic() - part.began > LONG_RUN:
                part.failures = 0
            self._plan(part)

        try:
            self._when_ended(part.pid, ended)
        except OSError:
            if part.child is not None:
                kill_child(part.child)
            raise
        self._parts[part.pid] = part

    def _when_ended(self, pid: int, call: Callable[[], None]) -> None:
        descriptor = os.pidfd_open(pid)

        def ended() -> None:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            call()

        try:
            self._selector.register(descriptor, selectors.EVENT_READ, ended)
        except OSError:
            os.close(descriptor)
            raise

    def _plan(self, part: Part) -> None:
        """Schedule the next start of a part that has failed."""
        part.failures += 1
        part.reported = False
        part.due = time.monotonic() + min(self._first_pause * 2 ** (part.failures - 1), LONGEST_PAUSE)

    def _settle(self, part: Part) -> None:
        """Handle a part that has ended, as soon as no command changes the deployment."""
        if part.due is None or part.helper is not None or self._is_busy():
            return
        # 1. Forget a part that was stopped on purpose.
        if not self._is_wanted(part):
            del self._parts[part.pid]
            self._history.drop(part)
            return
        # 2. Leave a part down that failed too many times.
        if part.failures > ATTEMPTS:
            del self._parts[part.pid]
            _LOG.error(
                "%s %s. It failed %d times in a row and stays down. Run `sealserve up` to start it again.",
                part.role, part.last_exit, part.failures,
            )  # fmt: skip
            self._history.note(part, restart_history.FAILED)
            return
        # 3. Restart any other part after a pause.
        pause = max(part.due - time.monotonic(), 0)
        if not part.reported:
            part.reported = True
            _LOG.warning("%s %s. It will be restarted in %.1f s.", part.role, part.last_exit, pause)
            self._history.note(part, restart_history.WAITING, pause=pause)
        if pause == 0:
            self._help(part)

    def _help(self, part: Part) -> None:
        """Run the program that restarts a part. If the machine cannot run it now, schedule the next attempt."""
        command = [sys.executable, "-P", "-m", "sealserve.cluster.local.supervision.restart"]
        arguments = [str(self._directory), str(part.pid), str(part.started)]
        try:
            helper = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL)
        except OSError as error:
            self._plan_after(part, error)
            return

        def ended() -> None:
            status = helper.wait()
            if self._parts.get(part.pid) is not part:
                return  # it was restarted, as a different process
            part.helper = None
            if status != 0:
                part.last_exit = f"{part.last_exit.partition(';')[0]}; the restart failed"
            self._plan(part)  # `_settle` forgets the part if it should not run

        try:
            self._when_ended(helper.pid, ended)
        except OSError as error:
            kill_child(helper)
            self._plan_after(part, error)
        else:
            part.helper = helper

    def _plan_after(self, part: Part, error: OSError) -> None:
        """Schedule the next start of a part that the machine could not restart."""
        _LOG.error("%s cannot be restarted now: %s", part.role, error.strerror)
        self._plan(part)

    # Files of the workspace

    def _is_wanted(self, part: Part) -> bool:
        """Return whether the record contains this process as a current part, not as a leaving or next replica."""
        try:
            rows = json.loads((self._run / RECORD).read_bytes())
            wanted = (part.pid, part.started, "current")
            return any((row["pid"], row["started"], row.get("phase", "current")) == wanted for row in rows)
        except OSError as error:
            return error.errno in _SCARCE  # the restart program reads the record again
        except _DAMAGED:
            return False

    def _is_busy(self) -> bool:
        """Return whether a command is changing the deployment. See `sealserve.cluster.deployment_lock`."""
        try:
            found = json.loads((self._root / DEPLOYMENT_LOCK).read_bytes())
            started = start_time(int(found["pid"]))
            return started is not None and bool(started == found["started"])
        except _DAMAGED:
            return False


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[Path]:
    """Yield a short path of a folder, because the address of a Unix socket has at most 107 bytes."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _is_same(path: Path, before: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), before)
    except OSError:
        return False


def main(arguments: Sequence[str], *, first_pause: float = FIRST_PAUSE) -> None:
    """Run the supervisor of the workspace in ``--directory DIRECTORY``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    Supervisor(Path(arguments[arguments.index("--directory") + 1]), first_pause=first_pause).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
