"""What the broker tells Prometheus: how it decided, and when certificates and collateral end.

Nothing of it is secret, and no label is what a stranger chose. The page is served on this machine alone: an agent of
Prometheus here collects it. A request has a few seconds from its first to its last byte, and there are few at a time:
a further one takes the place of the oldest. So a slow peer keeps no other one out.

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
    """How a request for a key ended."""

    RELEASED = "released"
    REFUSED = "refused"
    """A quote was shown, and did not do."""
    TURNED_AWAY = "turned-away"
    """Nothing was shown that could be judged: anybody can make these."""


class Decisions:
    """How often the broker decided what. Several threads may count at once."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Outcome, str], int] = {(outcome, ""): 0 for outcome in Outcome}
        self._lock = threading.Lock()

    def count(self, outcome: Outcome, code: str = "") -> None:
        """Count a decision.

        Args:
            outcome: What it was.
            code: The error's, of which there are as many as error classes; empty for a key that was released.
        """
        with self._lock:
            self._counts[outcome, code] = self._counts.get((outcome, code), 0) + 1

    def all(self) -> Mapping[tuple[Outcome, str], int]:
        """Return the counts, by outcome and code."""
        with self._lock:
            return dict(self._counts)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document of a vendor's collateral as it was last fetched."""

    at: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is told.

    Args:
        decisions: How the broker decided.
        certificates: Returns when each certificate ends, by what it is for.
        collateral: Returns the documents that were fetched, by vendor and name.
    """

    decisions: Decisions
    certificates: Callable[[], Mapping[str, datetime]]
    collateral: Callable[[], Mapping[tuple[str, str], Fetched]]

    def page(self) -> str:
        """Return the page."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _heading("decisions_total", "counter", "Requests for keys, by how they ended and why.")
        for (outcome, code), count in sorted(self.decisions.all().items()):
            yield _sample("decisions_total", count, outcome=outcome, code=code)
        name = "certificate_expiry_timestamp_seconds"
        yield from _heading(name, "gauge", "When a certificate ends.")
        for role, ends in sorted(self.certificates().items()):
            yield _sample(name, ends.timestamp(), certificate=role)
        collateral = sorted(self.collateral().items())
        name = "collateral_next_update_timestamp_seconds"
        yield from _heading(name, "gauge", "When the vendor replaces a document of the collateral: it is void then.")
        for (vendor, document), fetched in collateral:
            yield _sample(name, fetched.next_update.timestamp(), vendor=vendor, document=document)
        name = "collateral_fetched_timestamp_seconds"
        yield from _heading(name, "gauge", "When a document of the collateral was last fetched.")
        for (vendor, document), fetched in collateral:
            yield _sample(name, fetched.at.timestamp(), vendor=vendor, document=document)


class MetricsServer:
    """Serves the page. Use it as a context manager.

    Args:
        observed: What is told.
        port: A port of this machine's own address, 127.0.0.1; 0 takes a free one.

    Raises:
        UnavailableError: `broker.metrics-port`: The port is taken.
    """

    def __init__(self, observed: Observed, port: int) -> None:
        class Handler(_Handler):
            page = staticmethod(observed.page)

        try:
            self._server = _Server((_LOOPBACK, port), Handler)
        except OSError as error:
            raise BrokerCode.METRICS_PORT.error(
                f"The page of metrics cannot be served on {_LOOPBACK} port {port}: {error.strerror or error}.",
                hint="Set broker.metrics_port to a free port; without it there is no page.",
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="broker-metrics", daemon=True)

    @property
    def port(self) -> int:
        """The port."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        _LOG.info("metrics are at http://%s:%d%s", _LOOPBACK, self.port, PATH)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        self._connected: dict[socket.socket, None] = {}  # in the order in which they came
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
        super().server_close()  # waits for the threads

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a peer that broke off, or was cut off."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    page: Callable[[], str]
    timeout = _SECONDS  # of each read; `handle` bounds them all together
    server_version = "sealserve"
    sys_version = ""

    def handle(self) -> None:
        """Answer one request, within `_SECONDS` altogether."""
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
            _LOG.warning("there is no page of metrics for now: %s", error)
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: what a stranger sends does not belong into the log."""


def _heading(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {what}"
    yield f"# TYPE {PREFIX}{name} {kind}"


def _sample(name: str, value: float, **labels: str) -> str:
    joined = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
    return f"{PREFIX}{name}{{{joined}}} {value:.0f}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
