"""The main thread of a running broker: it waits for signals, reloads changed files, and reports to systemd.

- SIGTERM and SIGINT end the broker.
- SIGHUP reloads its files now. With a controlling terminal, SIGHUP means that the terminal is gone, so it ends the
  broker.
- Once a second, changed files are reloaded, and systemd's watchdog is notified.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from sealserve.signal_pipe import SignalPipe, signal_pipe
from sealserve.systemd_notify import Notifier

_POLL_SECONDS: Final = 1.0
_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})


class Service(Protocol):
    """A service that the main thread supervises."""

    def is_serving(self) -> bool:
        """Return whether the service accepts connections."""

    def reload(self) -> None:
        """Load all files again."""

    def poll(self) -> None:
        """Load changed files again."""

    def describe(self) -> str:
        """Return the state of the service as one sentence for an operator."""


Wait = Callable[[float], signal.Signals | None]
"""Waits for a signal, for at most a number of seconds."""


def run(service: Service, wait: Wait, notifier: Notifier) -> None:
    """Supervise a service that was started, until a signal ends it.

    Args:
        service: The running service.
        wait: `SignalPipe.wait`.
        notifier: Reports to systemd.
    """
    told = service.describe()
    notifier.ready(told)
    # The watchdog must be told more often than its time limit.
    interval = min(_POLL_SECONDS, (notifier.watchdog or _POLL_SECONDS) / 3)
    next_poll = time.monotonic()
    while (number := wait(interval)) not in _ENDING:
        if number is signal.SIGHUP:
            notifier.reloading()
            service.reload()
            notifier.ready(told := service.describe())
        if time.monotonic() >= next_poll:
            next_poll = time.monotonic() + _POLL_SECONDS
            service.poll()
        if (text := service.describe()) != told:
            notifier.status(told := text)
        # If the broker stopped accepting connections, systemd restarts it.
        if service.is_serving():
            notifier.alive()
    notifier.stopping()


def signalled() -> AbstractContextManager[SignalPipe]:
    """Return a pipe for the signals of a service, whose block contains the service and its clean-up."""
    return signal_pipe(_ENDING if _has_terminal() else _ENDING | {signal.SIGHUP})


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
