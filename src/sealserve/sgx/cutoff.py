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
from collections.abc import Mapping
from typing import Any, Final, Self

_CONNECTED: Final = "connection.connect_tcp.complete"


class Cutoff:
    """Ends the connections of requests that were made with `extensions`, ``seconds`` after it was entered.

    Such requests need connections of their own (``Connection: close``): one that is used again is not seen here.

    Args:
        seconds: How long all may take together.
    """

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self.passed = False

    @property
    def extensions(self) -> dict[str, Any]:
        """What a request of httpx takes as ``extensions``."""
        return {"trace": self._trace}

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for connected in self._sockets:
                connected.close()
            self._sockets.clear()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event != _CONNECTED:
            return
        connected = info["return_value"].get_extra_info("socket")
        with self._lock:  # a descriptor of our own: TLS takes the socket over, and nobody else may close this one
            self._sockets.append(socket.socket(fileno=os.dup(connected.fileno())))
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        self.passed = True
        with self._lock:
            for connected in self._sockets:
                with contextlib.suppress(OSError):  # it is closed already
                    connected.shutdown(socket.SHUT_RDWR)
