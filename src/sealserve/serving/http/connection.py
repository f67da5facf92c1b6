"""Connections of HTTP clients. Errors below the REST API are JSON like the API's, and idle connections can be closed.

aiohttp itself answers when the received bytes are not HTTP. Its answers are text, contain the versions of Python and
aiohttp, and can quote what the client sent.
"""

import asyncio
import logging
import random
import weakref
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong

from sealserve.serving.http.api import error_body

logger = logging.getLogger(__name__)

SERVER: Final = {"Server": "sealserve"}
QUIET: Final = 0.25
"""Seconds without a byte after which a connection without a request counts as idle.

A client that sends one request after another needs a moment between them. If the server closed the connection in this
moment, a request that is already on its way would be lost.
"""
_OLD: Final = (0.5, 0.6)
"""Fractions of the maximum age between which a connection becomes old."""
_GRACE: Final = 10.0
"""Seconds after the maximum age within which a request must arrive, so that its headers are complete."""
LONGEST_LINE: Final = 8 * 1024
"""Maximum bytes of method, path and query."""
LONGEST_FIELD: Final = 16 * 1024
"""Maximum bytes of a header."""

_silent: Final = logging.getLogger(f"{__name__}.aiohttp")
_silent.setLevel(logging.CRITICAL)  # aiohttp's messages quote the client's bytes


class Connection(web.RequestHandler):
    """One connection. The time of its last byte in either direction decides whether it is idle."""

    last_used = 0.0
    max_age: float | None = None
    """Seconds after which it is closed even without an answer, once no request runs; None for no limit."""
    is_old = False
    """Whether the next answer closes it."""
    _timer: asyncio.TimerHandle | None = None
    _is_refused = False
    """Whether it was retired before its TLS handshake ended."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, and set the time when the connection becomes old.

        An answer with "Connection: close" is the only method to end an HTTP/1.1 connection without a race against the
        next request (RFC 9112, section 9.6). So a connection becomes old well before it is closed while it is idle.
        """
        super().connection_made(transport)
        if self._is_refused and self.transport is not None:
            self.transport.abort()
        elif self.max_age is not None:
            share = random.uniform(*_OLD)  # noqa: S311  # it only spreads new connections over time
            self._timer = self._loop.call_later(self.max_age * share, self._grow_old, self._loop.time() + self.max_age)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def retire(self) -> None:
        """Close with the next answer, or as soon as the connection is idle, as if the maximum age were reached."""
        self._is_refused = True
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is not None:
            self._grow_old(self._loop.time())

    def _grow_old(self, end: float) -> None:
        """Make the next answer close the connection. From ``end`` on, close it as soon as it is idle.

        A client that sends the headers of a request byte by byte is never idle; it is disconnected after `_GRACE`.
        """
        self.is_old = True
        left = end - self._loop.time()
        if left <= 0 and self.is_idle(QUIET if left > -_GRACE else 0.0):
            self.force_close()
        else:
            self._timer = self._loop.call_later(max(left, QUIET), self._grow_old, end)

    def mark_used(self) -> None:
        """Record that bytes were just received or sent."""
        self.last_used = self._loop.time()

    def data_received(self, data: bytes) -> None:
        """Record the time, and parse ``data``."""
        self.mark_used()
        super().data_received(data)

    def is_idle(self, seconds: float) -> bool:
        """Return whether no request runs, is queued, or has begun to arrive within the last ``seconds``."""
        waits = self._waiter is not None and not self._waiter.done() and not self._messages
        return waits and self._loop.time() - self.last_used >= seconds

    def ignore_body(self) -> None:
        """Close the connection after the next answer, without waiting for the rest of the request."""
        self._lingering_time = 0.0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the client's bytes
    ) -> web.StreamResponse:
        """Return the answer to bytes that are not HTTP, or to a request whose handler failed, and close."""
        if isinstance(exc, ConnectionError):  # the client disconnected
            raise exc
        if request.writer.output_size:
            raise ConnectionError("A part of the answer has already been sent.")
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("a request failed with an unexpected error", exc_info=exc)
            text = "internal"
        else:
            status, text = _reason(status, exc)
        answer_in_http11(request)  # aiohttp assumes HTTP/1.0 if it could not parse a request line
        response = web.Response(status=status, body=error_body(text), content_type="application/json", headers=SERVER)
        response.force_close()
        return response


class Connections(web.Server):
    """All connections of a port.

    Args:
        handler: Answers a request.
        patience: Maximum seconds that a connection may be idle, and that an unread body may take to arrive.
        max_age: Seconds after which a connection is closed; None for no limit.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        patience: float,
        max_age: float | None = None,
    ) -> None:
        super().__init__(handler)
        self._patience = patience
        self._max_age = max_age
        self._made: weakref.WeakSet[Connection] = weakref.WeakSet()
        """All connections, including connections with an incomplete TLS handshake."""

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        connection = Connection(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]  # it is optional
            keepalive_timeout=self._patience,
            lingering_time=self._patience,
            logger=_silent,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_FIELD,
        )
        connection.max_age = self._max_age
        connection.mark_used()
        self._made.add(connection)
        return connection

    def close_idle(self, seconds: float) -> bool:
        """Close connections that have been idle for ``seconds``; return whether other connections remain."""
        for connection in self.connections:
            if isinstance(connection, Connection) and connection.is_idle(seconds):
                connection.force_close()
        return bool(self.connections)

    def retire(self) -> None:
        """Make each open connection end; see `Connection.retire`."""
        for connection in list(self._made):
            connection.retire()


def answer_in_http11(request: web.BaseRequest) -> None:
    """Make the answer's status line contain HTTP/1.1, regardless of the version in the request."""
    request._version = HttpVersion11  # noqa: SLF001  # aiohttp has no public interface for this
    request._cache.pop("version", None)  # noqa: SLF001


def _reason(status: int, error: BaseException | None) -> tuple[int, str]:
    """Return the status and the message for bytes that are not HTTP. The message contains none of these bytes."""
    if isinstance(error, LineTooLong):
        limit = error.args[1] if len(error.args) > 1 else None
        if str(limit) == str(LONGEST_LINE):
            return 414, f"The request line is longer than {LONGEST_LINE} bytes."
        return 431, f"A header is longer than {LONGEST_FIELD} bytes."
    if status == HTTPStatus.BAD_REQUEST:
        return status, "The bytes are not an HTTP/1.1 request."
    return status, HTTPStatus(status).phrase
