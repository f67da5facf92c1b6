"""Serves the broker's metrics page and its health over HTTP, on the loopback address.

A Prometheus agent on the same machine collects the page. Each request has a time limit of 5 seconds, and at most 8
requests are served at a time. A further request replaces the oldest request, so that slow peers cannot block other
peers. The library's own server has none of these limits.

The same port serves `/healthz`, which returns status 200 while the process runs, and `/readyz`, which returns status
200 if the broker can release keys. Otherwise `/readyz` returns status 503 and the error code.
"""

import contextlib
import http.server
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, Self

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from sealserve.broker.codes import BrokerCode
from sealserve.errors import SealserveError

_LOG: Final = logging.getLogger(__name__)
_SECONDS: Final = 5.0
_PLACES: Final = 8
_LOOPBACK: Final = "127.0.0.1"
PATH: Final = "/metrics"
HEALTH_PATH: Final = "/healthz"
READY_PATH: Final = "/readyz"


class Source(Protocol):
    """The source of the metrics page and of the health."""

    def page(self) -> str:
        """Return the metrics page."""

    @property
    def ready(self) -> Callable[[], None]:
        """Checks that the broker can release keys. Otherwise it raises a `SealserveError`."""


class MetricsServer:
    """Serves the metrics page on the loopback address. Use it as a context manager.

    Args:
        observed: The source of the metrics, such as `sealserve.broker.metrics.Observed`.
        port: A port on 127.0.0.1. 0 selects a free port.

    Raises:
        UnavailableError: `broker.metrics-port` if the port is in use.
    """

    def __init__(self, observed: Source, port: int) -> None:
        class Handler(_Handler):
            page = staticmethod(observed.page)
            ready = staticmethod(observed.ready)

        try:
            self._server = _Server((_LOOPBACK, port), Handler)
        except OSError as error:
            raise BrokerCode.METRICS_PORT.error(
                f"The broker cannot serve its metrics page on {_LOOPBACK} port {port}: {error.strerror or error}.",
                hint="Set broker.metrics_port to a free port, or remove the setting to turn the metrics page off.",
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="broker-metrics", daemon=True)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        _LOG.info("serving metrics at http://%s:%d%s", _LOOPBACK, self.port, PATH)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        self._connected: dict[socket.socket, None] = {}  # in order of arrival
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connected[request] = None
            if len(self._connected) > _PLACES:
                oldest = next(iter(self._connected))
                del self._connected[oldest]
                _cut(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connected.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        with self._lock:
            for connected in self._connected:
                _cut(connected)
        super().server_close()  # waits for the threads to end

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of peers that disconnected or were disconnected."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the connection has already ended
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    page: Callable[[], str]
    ready: Callable[[], None]
    timeout = _SECONDS  # for each read; `handle` limits the total time
    server_version = "sealserve"
    sys_version = ""

    def handle(self) -> None:
        """Serve one request within `_SECONDS` in total."""
        deadline = threading.Timer(_SECONDS, _cut, (self.connection,))
        deadline.daemon = True
        deadline.start()
        try:
            super().handle()
        finally:
            deadline.cancel()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == HEALTH_PATH:
            self._respond(200, "ok\n")
        elif path == READY_PATH:
            self._respond_ready()
        elif path == PATH:
            self._respond_metrics()
        else:
            self.send_error(404)

    def _respond_ready(self) -> None:
        try:
            self.ready()
        except SealserveError as error:
            # The code is enough for a probe. The message can contain paths of the owner's machine.
            self._respond(503, f"{error.code}\n")
        else:
            self._respond(200, "ok\n")

    def _respond_metrics(self) -> None:
        try:
            page = self.page()
        except (SealserveError, OSError) as error:
            _LOG.warning("the metrics page is temporarily unavailable: %s", error)
            self.send_error(503)
            return
        self._respond(200, page, kind=CONTENT_TYPE_PLAIN_0_0_4)

    def _respond(self, status: int, text: str, *, kind: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Discard the line: text from unauthenticated clients must not reach the log."""
