"""Runs a server of the simulation, in a separate thread or in the caller's thread."""

import threading
from socketserver import BaseServer
from typing import Final, Self

_POLL: Final = 0.05  # seconds between two checks for a stop request


class BackgroundServer:
    """A bound server that handles requests from `start` or `serve_forever` until `stop`.

    Args:
        server: The bound server.
    """

    def __init__(self, server: BaseServer) -> None:
        self._server = server
        self._thread: threading.Thread | None = None
        self._serving = False

    def start(self) -> Self:
        """Handle requests in a separate thread."""
        self._serving = True
        self._thread = threading.Thread(target=self.serve_forever, name=type(self).__name__, daemon=True)
        self._thread.start()
        return self

    def serve_forever(self) -> None:
        """Handle requests in this thread until another thread calls `stop`."""
        self._serving = True
        try:
            self._server.serve_forever(poll_interval=_POLL)
        finally:
            self._serving = False

    def stop(self) -> None:
        """Stop handling requests and release the address. Requests in progress may be cut off."""
        if self._serving:
            self._server.shutdown()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
