"""Notifications from a service to systemd: it is ready, it reloads, it stops, and it still works.

Without systemd, each function does nothing. A notification is a few lines of text in one message to a socket, so a
library would save little.

Source: sd_notify(3) "Notes", sd_watchdog_enabled(3), of version 252; the field MONOTONIC_USEC is from version 253.
"""

import logging
import os
import re
import socket
import time
from collections.abc import MutableMapping
from typing import Final, Self

_LOG: Final = logging.getLogger(__name__)
_SEND_SECONDS: Final = 1.0  # systemd may be busy; a service must not wait for it
_LONGEST_STATUS: Final = 512
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Notifier:
    """Sends notifications to the service manager.

    Args:
        address: The manager's socket: a path, or ``@`` and the name of an abstract socket. `None`: no manager.
        watchdog: The time limit of the watchdog in seconds. `None` means that the manager does not expect keep-alives.
    """

    def __init__(self, address: str | None, *, watchdog: float | None = None) -> None:
        self._address = address
        self._failed = False
        self.watchdog: Final = watchdog

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Self:
        """Return the notifier that the environment describes, and remove its variables for child processes."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        if address is not None and not address.startswith(("/", "@")):
            _LOG.warning("cannot notify systemd: NOTIFY_SOCKET is neither a path nor an abstract socket")
            address = None
        meant = address is not None and (not pid or pid == str(os.getpid()))
        watched = meant and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        return cls(address, watchdog=int(microseconds) / 1_000_000 if watched else None)

    def ready(self, status: str) -> None:
        """Report that the service is ready, or that a reload has ended."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Report the start of a reload. `ready` reports its end."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._send("STOPPING=1", _status("stopping"))

    def status(self, text: str) -> None:
        """Set the text that ``systemctl status`` shows. Control characters are replaced."""
        self._send(_status(text))

    def alive(self) -> None:
        """Report that the service works, if the manager expects it. Without a report in time, systemd restarts it."""
        if self.watchdog is not None:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # The first character of an abstract socket's address is a zero byte.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream:
                stream.settimeout(_SEND_SECONDS)
                stream.connect(address)
                stream.sendall("\n".join(lines).encode())
        except OSError as error:
            if not self._failed:  # one line is enough for a manager that is gone
                _LOG.warning("cannot notify systemd: %s", error.strerror or error)
            self._failed = True
        else:
            self._failed = False


def _status(text: str) -> str:
    return f"STATUS={_CONTROL.sub(' ', text)[:_LONGEST_STATUS]}"
