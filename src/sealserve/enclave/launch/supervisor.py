"""A launcher that starts the enclave again when a signal has ended its server: an abort, a lack of memory.

Docker and Kubernetes restart a container; on the local target nothing else would. Each start is a new process, which is
attested and receives the key anew, since nothing of the ended enclave may be kept.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from sealserve.enclave.launch.pauses import LONG_RUN, Pauses
from sealserve.enclave.launch.server_process import RELAYED, SIGNALLED, relayed_signals

LOGGER: Final = logging.getLogger(__name__)
_POLL: Final = 0.1


class _InChildError(Exception):
    """This process is the child."""


class _Launcher:
    """A launcher in a child process, as `SignalRelay.run` takes it.

    Args:
        serves: Whether its server answers.
    """

    def __init__(self, serves: Callable[[], bool]) -> None:
        self._pid = 0
        self._serves = serves
        self.served = False

    def fork(self) -> "_Launcher":
        """Make the child; return in the parent.

        Raises:
            _InChildError: In the child, so that it leaves the loop of its parent.
        """
        # A signal that the child gets before it has its own handlers would be lost in those of its parent.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, RELAYED)
        try:
            self._pid = os.fork()
            if not self._pid:
                for number in RELAYED:
                    signal.signal(number, signal.SIG_DFL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not self._pid:
            raise _InChildError
        return self

    def send_signal(self, sig: int) -> None:
        """Pass on a signal. The child is not reaped before `wait` returns, so its id is still its own."""
        os.kill(self._pid, sig)

    def wait(self) -> int:
        """Return the exit status once the child has ended: negative if a signal ended it."""
        while True:
            # Reaping it at the end only keeps `send_signal` from reaching another process with its id.
            ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            self.served = self.served or self._serves()
            time.sleep(_POLL)


def supervise(launch: Callable[[], int], *, attempts: int, serves: Callable[[], bool]) -> int:
    """Call ``launch`` in a child process, and again when a signal has ended its server; return the exit status.

    It returns in each child as well, with what ``launch`` returned. The pause before a new start doubles from 1 to 60
    seconds, so that a server that crashes again and again does not keep the broker busy.

    Args:
        launch: Starts the enclave and waits for its end. Called in the child's main thread.
        attempts: How often it is started before it is given up; the count begins anew after five minutes without a
            crash.
        serves: Whether the server answers. What crashes before it ever did is not started again: it would crash again.

    Raises:
        StoppedBySignal: A signal came while no enclave ran.
    """
    LOGGER.info("step=supervisor pid=%d attempts=%d", os.getpid(), attempts)
    pauses, failed, served = Pauses(), 0, False
    with relayed_signals() as relay:
        while True:
            started = time.monotonic()
            launcher = _Launcher(serves)
            try:
                status = relay.run(launcher.fork)
            except _InChildError:
                break
            served = served or launcher.served
            ran = time.monotonic() - started
            failed = 1 if ran > LONG_RUN else failed + 1
            if relay.asked or not served or not _is_crash(status) or failed >= attempts:
                return status
            relay.again()
            name = signal.Signals(status - SIGNALLED).name
            pause = pauses.after(ran)
            LOGGER.warning("step=again after=%.0fs failed=%d signal=%s", pause, failed, name)
            time.sleep(pause)
    return launch()  # in the child, with the handlers that were there before


def _is_crash(status: int) -> bool:
    """Whether a signal that nobody sends to ask for the end has ended the server."""
    return status - SIGNALLED in set(signal.Signals) - set(RELAYED)
