"""Supervisor that starts the enclave again after a signal ended its server, such as an abort or an out-of-memory kill.

Docker and Kubernetes restart a container. On the local target, only this supervisor restarts the enclave. Each start is
a new process, which is attested and receives the key again, because no state of the ended enclave may be reused.
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
    """Raised in the child process, to leave the parent's loop."""


class _Launcher:
    """A launcher in a child process, in the form that `SignalRelay.run` requires.

    Args:
        serves: Returns whether the enclave's server answers.
    """

    def __init__(self, serves: Callable[[], bool]) -> None:
        self._pid = 0
        self._serves = serves
        self.served = False

    def fork(self) -> "_Launcher":
        """Fork the child process; return in the parent.

        Raises:
            _InChildError: In the child, so that it leaves the parent's loop.
        """
        # Block signals during the fork. Otherwise the parent's handlers in the child would consume them.
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
        """Pass on a signal. `wait` reaps the child only at its end, so no other process can have its id."""
        os.kill(self._pid, sig)

    def wait(self) -> int:
        """Wait for the child's end, and return its exit status: negative if a signal ended it."""
        while True:
            # WNOWAIT keeps the process id reserved, so that `send_signal` cannot reach another process with that id.
            ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            self.served = self.served or self._serves()
            time.sleep(_POLL)


def supervise(launch: Callable[[], int], *, attempts: int, serves: Callable[[], bool]) -> int:
    """Call ``launch`` in a child process, and again when a signal has ended its server; return the exit status.

    The function also returns in each child, with the result of ``launch``. The pause before a new start doubles from 1
    to 60 seconds, so that a server that crashes repeatedly does not overload the broker.

    Args:
        launch: Starts the enclave and waits for its end. Called in the child's main thread.
        attempts: The maximum number of starts. The count starts over after five minutes without a crash.
        serves: Returns whether the server answers. A server that crashes before its first answer is not started again,
            because it would crash again.

    Raises:
        StoppedBySignal: A signal arrived while no enclave ran.
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
    return launch()  # in the child, with the original signal handlers


def _is_crash(status: int) -> bool:
    """Return whether a signal ended the server that is not one of the usual requests to stop."""
    return status - SIGNALLED in set(signal.Signals) - set(RELAYED)
