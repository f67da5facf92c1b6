"""TLS and HTTP connections of the administration API. Each connection serves exactly one request.

With one request per connection, no request can be smuggled behind another, and no connection is idle. aiohttp parses
HTTP. Its own answers to malformed bytes quote the client, so this module replaces them with problem documents.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import HttpVersion11, web
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.broker.administration.operations import MethodNotAllowedError
from sealserve.broker.administration.problem import MEDIA_TYPE, ProblemReply
from sealserve.broker.codes import BrokerCode
from sealserve.errors import SealserveError
from sealserve.memory_file import memory_file
from sealserve.pki.administrators import AdministratorTrust
from sealserve.pki.certificate import CertifiedKey

_LOG: Final = logging.getLogger(__name__)
_silent: Final = logging.getLogger(f"{__name__}.aiohttp")
_silent.setLevel(logging.CRITICAL)  # aiohttp's messages quote the client's bytes

HEADERS: Final = {"Server": "sealserve", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_LONGEST_LINE: Final = 4096
_LONGEST_FIELD: Final = 8192
_LINGER: Final = 2.0  # seconds in which the rest of a refused body is discarded, so that the client reads the answer


class ConnectionContext(ssl.SSLContext):
    """The TLS context of one connection. It sends the alert of a failed handshake, which asyncio discards.

    Without the alert, a client with an expired certificate could not report more than a lost connection.
    """

    stream: socket.socket | None = None
    _outgoing: ssl.MemoryBIO

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *rest: Any, **settings: Any) -> ssl.SSLObject:
        """Begin the connection in memory. asyncio calls this."""
        self._outgoing = outgoing
        return super().wrap_bio(incoming, outgoing, *rest, **settings)

    def send_alert(self) -> None:
        """Send what OpenSSL wrote last. It is a few bytes, so the socket's buffer has room."""
        if self.stream is not None:
            with contextlib.suppress(OSError):
                self.stream.send(self._outgoing.read())


class _AlertingObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            if isinstance(self.context, ConnectionContext):
                self.context.send_alert()
            raise


def server_context(identity: CertifiedKey, trust: AdministratorTrust) -> ConnectionContext:
    """Return a TLS context that accepts only TLS 1.3 and certificates of the administrators' CA.

    The caller creates a context for each connection. A context therefore has no sessions to resume, and a renewed
    certificate is used immediately.
    """
    context = ConnectionContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _AlertingObject
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=trust.authority.public_bytes(Encoding.DER))
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    with memory_file(identity.chain_pem) as chain, memory_file(identity.key_pem.reveal()) as key:
        context.load_cert_chain(chain, key, password=lambda: b"")  # an encrypted key is an error, not a question
    return context


def problem(error: SealserveError) -> web.Response:
    """Return the HTTP response for an error."""
    reply = ProblemReply.of(error)
    response = web.Response(
        status=reply.status, body=reply.model_dump_json().encode(), content_type=MEDIA_TYPE, headers=HEADERS
    )
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        response.headers["Retry-After"] = "1"
    if isinstance(error, MethodNotAllowedError):
        response.headers["Allow"] = ", ".join(error.allowed)
    response.force_close()
    return response


class Connection(web.RequestHandler):
    """One connection after its TLS handshake. It is aborted if the header of its request does not arrive in time."""

    receive_seconds = 0.0
    on_lost: Callable[[], None] = staticmethod(lambda: None)
    has_request = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time limit."""
        super().connection_made(transport)
        if self.transport is not None:
            self._timer = self._loop.call_later(self.receive_seconds, self.transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the time limit, and report the end of the connection."""
        self._stop_timer()
        self.on_lost()
        super().connection_lost(exc)

    def header_received(self) -> None:
        """Record that a request runs, and stop the time limit of its header."""
        self.has_request = True
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the client's bytes
    ) -> web.StreamResponse:
        """Return the answer to bytes that are not HTTP, and close. See `web.RequestHandler`."""
        if isinstance(exc, ConnectionError) or request.writer.output_size:
            raise ConnectionError("The client disconnected, or a part of the answer has already been sent.")
        # aiohttp assumes HTTP/1.0 if it could not parse the request line. It has no public interface for this.
        request._version = HttpVersion11  # noqa: SLF001
        request._cache.pop("version", None)  # noqa: SLF001
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _LOG.error("a request of the administration API failed with an unexpected error", exc_info=exc)
            return problem(internal_error())
        return problem(
            BrokerCode.ADMINISTRATION_REQUEST.error(
                "The request is invalid: its bytes are not an HTTP/1.1 request within the limits "
                f"({_LONGEST_LINE} bytes for the path, {_LONGEST_FIELD} bytes for a header)."
            )
        )


class HttpServer(web.Server):
    """Creates the HTTP protocol of each connection.

    Args:
        handler: Answers a request.
        receive_seconds: The time limit for the header of a request.
    """

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], *, receive_seconds: float
    ) -> None:
        super().__init__(handler)
        self._receive_seconds = receive_seconds

    def connection(self, on_lost: Callable[[], None]) -> Connection:
        """Return the protocol of a new connection. It calls ``on_lost`` when the connection ends."""
        made = Connection(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]  # it is optional
            keepalive_timeout=0,
            lingering_time=_LINGER,
            logger=_silent,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_FIELD,
            auto_decompress=False,
        )
        made.receive_seconds = self._receive_seconds
        made.on_lost = on_lost
        return made

    def abort_idle(self) -> None:
        """Disconnect clients that have not sent the header of their request."""
        for connection in self.connections:
            if isinstance(connection, Connection) and not connection.has_request and connection.transport is not None:
                connection.transport.abort()


def internal_error() -> SealserveError:
    """Return the error that a client gets for an unexpected exception. The log has the details."""
    return SealserveError("An unexpected error occurred in the broker.", hint="Ask the owner to read the broker's log.")
