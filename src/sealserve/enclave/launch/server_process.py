"""The server as a child process of the launcher: it receives the launcher's signals, and does not outlive it.

Source: Linux manual pages prctl(2), PR_SET_PDEATHSIG; signal(7).
"""

import ctypes
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from sealserve.enclave.codes import EnclaveCode

LOGGER: Final = logging.getLogger(__name__)
RELAYED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1
SIGNALLED: Final = 128  # a shell's exit status for "ended by signal N" is 128 + N
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class StoppedBySignal(BaseException):  # like KeyboardInterrupt, it is not an error
    """A signal asked the launcher to end before the server ran.

    Args:
        number: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = SIGNALLED + number


class Child(Protocol):
    """A process that receives the relayed signals: `subprocess.Popen`, or a class with the same two methods."""

    def send_signal(self, sig: int) -> None:
        """Send a signal to the process."""

    def wait(self) -> int:
        """Wait for the end, and return the exit status: negative if a signal ended the process."""
        ...


class SignalRelay:
    """Handler of the launcher's SIGTERM, SIGINT and SIGHUP.

    Before the server runs, the first signal raises `StoppedBySignal`, so that cleanup code runs. While the server runs,
    each signal is passed on to it. Afterwards signals are held back until `again`, so that they do not interrupt the
    wiping of memory.
    """

    def __init__(self) -> None:
        self._server: Child | None = None
        self._held: list[int] = []
        self._raise = True
        self._asked = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal according to the state of the server."""
        self._asked = True
        if self._server is not None:
            self._server.send_signal(number)
        elif self._raise:
            self._raise = False
            raise StoppedBySignal(number)
        else:
            self._held.append(number)

    @property
    def asked(self) -> bool:
        """Whether a signal requested the end."""
        return self._asked

    def again(self) -> None:
        """Let signals stop the launcher again. Call it when the server has ended and no memory is left to wipe.

        Raises:
            StoppedBySignal: A signal arrived meanwhile.
        """
        self._raise = True
        if self._held:
            self._raise = False
            raise StoppedBySignal(self._held[0])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back until the end of the block, for calls that would leak what they opened.

        Python raises an exception from a signal handler between any two steps. A function may then have opened a socket
        without having returned it. Keep the block short, because it delays the end.

        Raises:
            StoppedBySignal: A signal arrived during the block; raised at its end.
        """
        self._raise = False
        try:
            yield
        finally:
            self.again()

    def run(self, start: Callable[[], Child], *, started: Callable[[], object] | None = None) -> int:
        """Start the server, wait for its end, and return its exit status in a shell's form (128 + N for signal N).

        Args:
            start: Starts the server.
            started: Called after the start.
        """
        self._raise = False
        server = start()
        if started is not None:
            started()
        self._server = server
        for number in self._held:
            server.send_signal(number)
        status = server.wait()
        self._server = None
        return status if status >= 0 else SIGNALLED - status


@contextmanager
def relayed_signals() -> Iterator[SignalRelay]:
    """Yield a relay that handles the signals, and restore the handlers at the end. Use it in the main thread."""
    relay = SignalRelay()
    awaited = [number for number in RELAYED if signal.getsignal(number) is not signal.SIG_IGN]  # keep ignored signals
    before = {number: signal.signal(number, relay.receive) for number in awaited}
    try:
        yield relay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_stopped(run: Callable[[SignalRelay], int]) -> int:
    """Call ``run`` with a relay of signals; return its exit status, or the status of the signal that stopped it."""
    with relayed_signals() as relay:
        try:
            return run(relay)
        except StoppedBySignal as stop:
            LOGGER.info("step=stopped status=%d", stop.exit_status)
            return stop.exit_status


def start_server(
    program: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path = Path("/"),
    inherited: Collection[int] = (),
) -> subprocess.Popen[bytes]:
    """Start the server in ``folder`` with exactly these arguments and this environment, without standard input.

    The server inherits standard output, standard error, and the descriptors in ``inherited``. It runs in a separate
    process group, so that a terminal's Ctrl-C reaches it only once, through the launcher. If the launcher is killed,
    the kernel kills the server too.

    Raises:
        UnavailableError: `enclave.server-start`: The program cannot be started.
    """
    launcher = os.getpid()

    def die_with_launcher() -> None:
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)

    try:
        return subprocess.Popen(
            list(argv),
            executable=program,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            pass_fds=tuple(inherited),
            process_group=0,
            preexec_fn=die_with_launcher,  # noqa: PLW1509  # the launcher has one thread: code before exec is safe
        )
    except OSError as error:
        raise EnclaveCode.SERVER_START.error(
            f"The model server {program} cannot be started: {error.strerror}.",
            hint="Build the enclave on a machine where the program has the same path as on this machine.",
        ) from error


def set_parent_death_signal(number: int) -> None:
    """Ask the kernel to send a signal to this process when its parent ends."""
    if _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
