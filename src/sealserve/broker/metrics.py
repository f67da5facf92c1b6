"""The broker's Prometheus metrics: counts of decisions, and expiry times of certificates and collateral.

The metrics contain no secrets, and no label value is chosen by an unauthenticated client. The page is served only on
the loopback address, where a Prometheus agent on the same machine collects it. Each request has a time limit of
5 seconds, and at most 8 requests are served at a time. A further request replaces the oldest request, so that slow
peers cannot block other peers.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (the page, version 0.0.4),
https://prometheus.io/docs/practices/naming/ (names and units).
"""

import contextlib
import http.server
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from sealserve.broker.codes import BrokerCode
from sealserve.errors import SealserveError

_LOG: Final = logging.getLogger(__name__)
_SECONDS: Final = 5.0
_PLACES: Final = 8
_LOOPBACK: Final = "127.0.0.1"
PATH: Final = "/metrics"
PREFIX: Final = "sealserve_broker_"


class Outcome(StrEnum):
    """The outcome of a request for a key."""

    RELEASED = "released"
    REFUSED = "refused"
    """The peer presented a quote, and the broker refused it."""
    TURNED_AWAY = "turned-away"
    """The peer presented no evidence that could be appraised. Any client can cause this outcome."""


class Decisions:
    """Counts of the broker's decisions. Several threads may count at the same time."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Outcome, str], int] = {(outcome, ""): 0 for outcome in Outcome}
        self._lock = threading.Lock()

    def count(self, outcome: Outcome, code: str = "") -> None:
        """Count a decision.

        Args:
            outcome: The outcome of the request.
            code: The code of the error, from the fixed set of error codes. Empty for a released key.
        """
        with self._lock:
            self._counts[outcome, code] = self._counts.get((outcome, code), 0) + 1

    def all(self) -> Mapping[tuple[Outcome, str], int]:
        """Return the counts by outcome and code."""
        with self._lock:
            return dict(self._counts)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The times of a collateral document: the time of its last download and its next-update time."""

    at: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The sources of the metrics.

    Args:
        decisions: The counts of the broker's decisions.
        certificates: Returns the expiry time of each certificate, by the certificate's role.
        collateral: Returns the downloaded collateral documents, by vendor and document name.
    """

    decisions: Decisions
    certificates: Callable[[], Mapping[str, datetime]]
    collateral: Callable[[], Mapping[tuple[str, str], Fetched]]

    def page(self) -> str:
        """Return the metrics page in Prometheus text format."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _heading("decisions_total", "counter", "Requests for release keys, by outcome and error code.")
        for (outcome, code), count in sorted(self.decisions.all().items()):
            yield _sample("decisions_total", count, outcome=outcome, code=code)
        name = "certificate_expiry_timestamp_seconds"
        yield from _heading(name, "gauge", "Expiry time of a certificate.")
        for role, ends in sorted(self.certificates().items()):
            yield _sample(name, ends.timestamp(), certificate=role)
        collateral = sorted(self.collateral().items())
        name = "collateral_next_update_timestamp_seconds"
        yield from _heading(name, "gauge", "Next-update time of a collateral document, after which it is expired.")
        for (vendor, document), fetched in collateral:
            yield _sample(name, fetched.next_update.timestamp(), vendor=vendor, document=document)
        name = "collateral_fetched_timestamp_seconds"
        yield from _heading(name, "gauge", "Time of the last download of a collateral document.")
        for (vendor, document), fetched in collateral:
            yield _sample(name, fetched.at.timestamp(), vendor=vendor, document=document)


class MetricsServer:
    """Serves the metrics page on the loopback address. Use it as a context manager.

    Args:
        observed: The sources of the metrics.
        port: A port on 127.0.0.1. 0 selects a free port.

    Raises:
        UnavailableError: `broker.metrics-port` if the port is in use.
    """

    def __init__(self, observed: Observed, port: int) -> None:
        class Handler(_Handler):
            page = staticmethod(observed.page)

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
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        try:
            body = self.page().encode()
        except (SealserveError, OSError) as error:
            _LOG.warning("the metrics page is temporarily unavailable: %s", error)
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Discard the line: text from unauthenticated clients must not reach the log."""


def _heading(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {what}"
    yield f"# TYPE {PREFIX}{name} {kind}"


def _sample(name: str, value: float, **labels: str) -> str:
    joined = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
    return f"{PREFIX}{name}{{{joined}}} {value:.0f}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
