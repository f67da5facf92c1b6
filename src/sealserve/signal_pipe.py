"""The signals of a service, as bytes in a pipe, from its first wait until its clean-up has ended.

A signal handler in Python can raise an exception between any two steps, also in the middle of a clean-up. Here a signal
only writes its number into a pipe, and the service reads the pipe where it waits. The handlers are restored at the end
of the block. So a second Ctrl-C does not interrupt the clean-up that the first one started.

The start of the service is different: it can wait for a passphrase, so the first signal interrupts it. Further signals
do not interrupt the clean-up that follows.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from types import FrameType
from typing import Any

from sealserve.interruptions import interrupted_once


class SignalPipe:
    """Signals that have arrived. `signal_pipe` creates it.

    Args:
        numbers: The signals.
    """

    def __init__(self, numbers: Collection[signal.Signals]) -> None:
        self._numbers = frozenset(numbers)
        self._before: dict[signal.Signals, Any] = {}
        self._waker: int | None = None
        self.descriptor, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def begin(self) -> None:
        """Receive the signals in the pipe from now on. Before, the first one interrupts the start of the service.

        Call this in the main thread. A signal that is ignored stays ignored.
        """
        if self._waker is not None:
            return
        # The interpreter itself writes to the pipe, from any thread that receives the signal. A Python handler would
        # have to wait for the main thread. That thread may have checked for signals just before it began to block.
        self._waker = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in self._numbers:
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                self._before[number] = handler
                signal.signal(number, _ignore)

    def wait(self, seconds: float) -> signal.Signals | None:
        """Return the next signal, or None if none arrives within ``seconds``."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        deadline = time.monotonic() + seconds
        while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            number = os.read(self.descriptor, 1)[0]
            if number in self._numbers:
                return signal.Signals(number)
        return None

    def close(self) -> None:
        """Restore the handlers."""
        if self._waker is not None:
            signal.set_wakeup_fd(self._waker)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.descriptor)
        os.close(self._writing)


@contextlib.contextmanager
def signal_pipe(numbers: Collection[signal.Signals]) -> Iterator[SignalPipe]:
    """Yield a pipe for signals, and restore their handlers at the end. The block contains the service's clean-up."""
    with interrupted_once(), contextlib.closing(SignalPipe(numbers)) as pipe:
        yield pipe


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. A registered handler is required for the wake-up descriptor to receive the signal."""
