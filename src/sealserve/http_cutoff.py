"""A deadline for a whole HTTP request: httpx has timeouts only for each step, and a server can make steps without end.

When the time is over, the connection is shut down below httpx, wherever it is: in the TLS handshake, in the headers or
in the body.

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
"""Headers of each request that can be cut off: a connection that is used again is not seen here."""

_CONNECTED: Final = "connection.connect_tcp.complete"


class Cutoff:
    """Ends the connections of requests that were made with `extensions`, and those that it watches, after ``seconds``.

    Args:
        seconds: How long all may take together, unless it is prolonged.
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
        """What a request of httpx takes as ``extensions``."""
        return {"trace": self._trace}

    def prolong(self) -> None:
        """Start the time again: the other side has made progress."""
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
        """Shut down this connection, too, when the time is over."""
        with self._changed:  # a descriptor of our own: TLS takes the socket over, and nobody else may close this one
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
            with contextlib.suppress(OSError):  # it is closed already
                connected.shutdown(socket.SHUT_RDWR)
