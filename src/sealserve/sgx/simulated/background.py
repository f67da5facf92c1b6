"""Runs one of the simulation's servers in a thread, or in this one."""

import threading
from socketserver import BaseServer
from typing import Final, Self

_POLL: Final = 0.05  # seconds between two looks at whether to stop


class BackgroundServer:
    """A server that is bound already and answers from `start` or `serve_forever` until `stop`.

    Args:
        server: The bound server.
    """

    def __init__(self, server: BaseServer) -> None:
        self._server = server
        self._thread: threading.Thread | None = None
        self._serving = False

    def start(self) -> Self:
        """Answer in a thread of its own."""
        self._serving = True
        self._thread = threading.Thread(target=self.serve_forever, name=type(self).__name__, daemon=True)
        self._thread.start()
        return self

    def serve_forever(self) -> None:
        """Answer in this thread, until `stop` is called in another one."""
        self._serving = True
        try:
            self._server.serve_forever(poll_interval=_POLL)
        finally:
            self._serving = False

    def stop(self) -> None:
        """Stop answering and let go of the address. What is being answered may not finish."""
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
