"""Runs a server of the simulation, in a separate thread or in the caller's thread."""

import logging
import socket
import threading
from socketserver import BaseServer, ThreadingMixIn
from typing import Any, Final, Self

_log = logging.getLogger(__name__)
_MAX_PEERS: Final = 64
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


class LimitedThreads(ThreadingMixIn):
    """Handles each connection in a thread, at most 64 at a time. More connections are closed."""

    daemon_threads = True
    block_on_close = False
    what = "server"
    """The server's name in the log."""

    def __init__(self, *arguments: Any) -> None:
        self._places = threading.BoundedSemaphore(_MAX_PEERS)
        super().__init__(*arguments)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Handle a connection in a thread, or close it if too many are open."""
        if not self._places.acquire(blocking=False):
            _log.warning("%s: rejected a connection, because %d are already open", self.what, _MAX_PEERS)
            self.shutdown_request(request)  # type: ignore[attr-defined]  # of the server class
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()  # the thread that would release it was not started
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Handle a connection, and make its place available again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  # socketserver's signature
        """Log the exception of a connection."""
        _log.exception("%s: a request failed", self.what)
