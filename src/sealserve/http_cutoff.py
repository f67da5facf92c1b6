"""A deadline for a complete HTTP request. httpx has timeouts only per step, and a server can cause endless steps.

After the deadline, the connection is shut down below httpx in any phase: the TLS handshake, the headers or the body.
Source: httpx and httpcore documentation, "Extensions", ``trace``: the events ``connection.connect_tcp.complete``, whose
``return_value`` is the network stream, and ``get_extra_info("socket")``.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, Self

OWN_CONNECTION: Final = {"Connection": "close"}
"""Headers of each request with a deadline. A reused connection would not be tracked here."""

_CONNECTED: Final = "connection.connect_tcp.complete"


class Cutoff:
    """Shuts down the connections of requests with `extensions`, and watched connections, after ``seconds``.

    Args:
        seconds: The total time limit, unless it is prolonged.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline = 0.0
        self._ended = False
        self._sockets: list[socket.socket] = []
        self._changed = threading.Condition()
        self._watch = threading.Thread(target=self._wait, name="http-cutoff", daemon=True)
        self.passed = False

    @property
    def extensions(self) -> dict[str, Any]:
        """The value of ``extensions`` for an httpx request."""
        return {"trace": self._trace}

    def prolong(self) -> None:
        """Restart the time limit, because the other side has made progress."""
        with self._changed:
            self._deadline = time.monotonic() + self.seconds

    def __enter__(self) -> Self:
        self.prolong()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._watch.join()
        for connected in self._sockets:
            connected.close()
        self._sockets.clear()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event != _CONNECTED:
            return
        self.watch(info["return_value"].get_extra_info("socket"))

    def watch(self, connected: socket.socket) -> None:
        """Shut down this connection too after the deadline."""
        with (
            self._changed
        ):  # a duplicate descriptor: TLS takes over the socket, and only this object closes its duplicate
            self._sockets.append(socket.socket(fileno=os.dup(connected.fileno())))
            if self.passed:
                self._cut()

    def _wait(self) -> None:
        with self._changed:
            while not self._ended:
                if (left := self._deadline - time.monotonic()) <= 0:
                    self.passed = True
                    self._cut()
                    return
                self._changed.wait(left)

    def _cut(self) -> None:
        for connected in self._sockets:
            with contextlib.suppress(OSError):  # the connection is already closed
                connected.shutdown(socket.SHUT_RDWR)
