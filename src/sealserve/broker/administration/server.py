"""The server of the administration API: HTTPS with mutual TLS, in a thread of the broker's process.

The steps of a request are numbered in `AdministrationServer._answer`. The server never reads a key of the keystore.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from aiohttp import web

from sealserve.addresses import with_port
from sealserve.broker.admin import Actor
from sealserve.broker.administration.connection import (
    HEADERS,
    Connection,
    HttpServer,
    internal_error,
    problem,
    server_context,
)
from sealserve.broker.administration.interface import Administration
from sealserve.broker.administration.listener import open_listener
from sealserve.broker.administration.operations import find, refused
from sealserve.broker.administration.roles import check_permitted
from sealserve.broker.codes import BrokerCode
from sealserve.broker.limiter import Limiter, Rate
from sealserve.errors import SealserveError
from sealserve.pki.administrators import Administrator, AdministratorTrust
from sealserve.pki.certificate import CertifiedKey

_LOG: Final = logging.getLogger(__name__)
_PAUSE: Final = 0.1  # seconds without accepting after an error
_BROWSER_HEADERS: Final = ("Origin", "Sec-Fetch-Site")
_LINES_EACH: Final = Rate(burst=5, seconds=60)
_LINES_TOGETHER: Final = Rate(burst=50, seconds=5)
"""The rates of log lines about clients that TLS rejects: of one network, and of all networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the resources of clients. Times are in seconds.

    Args:
        connections: The maximum number of open connections. At the limit, a new connection replaces the oldest one,
            connections without a verified certificate first.
        handshake: The maximum duration of the TLS handshake.
        receive: The maximum time for the header of a request, and again for its body.
        send: The maximum time for sending a reply.
        body: The maximum size of a body in bytes.
        running: The maximum number of operations that run at the same time.
        waiting: The maximum number of further requests that wait.
        burst: The number of requests that an administrator may send at once.
        rate: The number of requests per second that an administrator may send for a long time.
    """

    connections: int = 64
    handshake: float = 10
    receive: float = 10
    send: float = 30
    body: int = 16 * 1024
    running: int = 4
    waiting: int = 32
    burst: int = 200
    rate: float = 20


class AdministrationServer:
    """Serves the administration API. Use it as a context manager.

    Args:
        administration: Returns the administration for an actor, whose name each change records.
        identity: Returns the broker's certificate chain and key. It is called for each connection.
        trust: The folder with the certificate of the administrators' CA and its revocation list.
        listen: The address to listen on.
        port: The port. 0 selects a free port.
        limits: The limits on clients. `None` means the defaults.
        listener: The listening socket, from `open_listener`. `None` listens on ``listen`` and ``port``.

    Raises:
        SealserveError: As `AdministratorTrust.read`.
        UnavailableError: `administration.port` if the address cannot be used.
    """

    def __init__(
        self,
        administration: Callable[[Actor], Administration],
        *,
        identity: Callable[[], CertifiedKey],
        trust: Path,
        listen: str,
        port: int,
        limits: Limits | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self._administration, self._identity, self._trust = administration, identity, trust
        self._limits = limits or Limits()
        server_context(identity(), AdministratorTrust.read(trust))  # fail now, where the owner sees the error
        self._listener = listener or open_listener(listen, port)
        self._thread = threading.Thread(target=self._run, name="broker-administration", daemon=True)
        self._lines = Limiter(each=_LINES_EACH, together=_LINES_TOGETHER)
        # The members below belong to the thread's event loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._started = threading.Event()
        self._open: dict[socket.socket, bool] = {}  # in order of arrival; whether TLS has verified the client
        self._lost = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending = 0
        self._slow = False
        self._allowances: dict[str, tuple[float, float]] = {}

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that the server listens on."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        _LOG.info("serving the administration API at https://%s", with_port(*self.address))
        return self

    def __exit__(self, *_: object) -> None:
        loop, ended = self._loop, self._ended
        if loop is not None and ended is not None:
            with contextlib.suppress(RuntimeError):  # the loop has already ended
                loop.call_soon_threadsafe(ended.set)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # noqa: BLE001  # the broker itself continues
            _LOG.exception("the administration API has stopped after an unexpected error")
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._listener.setblocking(False)
        limits = self._limits
        http = HttpServer(self._handle, receive_seconds=limits.receive)
        with ThreadPoolExecutor(limits.running, thread_name_prefix="administration") as self._threads:
            self._loop.add_reader(self._listener, self._accept, http)
            self._started.set()
            await self._ended.wait()
            # Stopping: accept no more. Disconnect clients without a request. Let running operations finish, because
            # each of them is one transaction.
            self._loop.remove_reader(self._listener)
            for stream, verified in list(self._open.items()):
                if not verified:
                    _cut(stream)
            await asyncio.gather(*self._tasks)
            http.abort_idle()
            await http.shutdown(timeout=limits.send)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.send):
                    while self._open:
                        self._lost.clear()
                        await self._lost.wait()

    def _accept(self, http: HttpServer) -> None:
        """Accept a connection. The event loop calls this when the listener has one."""
        assert self._loop is not None  # noqa: S101  # the loop calls this function
        try:
            stream, address = self._listener.accept()
        except OSError as error:  # out of descriptors, or the client already disconnected
            _LOG.warning("the administration API cannot accept a connection: %s", error)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_PAUSE, self._accept_again, http)
            return
        if len(self._open) >= self._limits.connections:
            oldest = next((each for each, verified in self._open.items() if not verified), next(iter(self._open)))
            self._forget(oldest)
            _cut(oldest)
        self._open[stream] = False
        task = self._loop.create_task(self._connect(http, stream, with_port(*address[:2])))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept_again(self, http: HttpServer) -> None:
        if self._loop is not None and self._ended is not None and not self._ended.is_set():
            self._loop.add_reader(self._listener, self._accept, http)

    async def _connect(self, http: HttpServer, stream: socket.socket, peer: str) -> None:
        """Run the TLS handshake. After it, aiohttp serves the connection."""
        limits, loop = self._limits, asyncio.get_running_loop()
        try:
            stream.setblocking(False)
            context = server_context(self._identity(), AdministratorTrust.read(self._trust))
            context.stream = stream
            await loop.connect_accepted_socket(
                lambda: http.connection(lambda: self._forget(stream)),
                stream,
                ssl=context,
                ssl_handshake_timeout=limits.handshake,
                ssl_shutdown_timeout=limits.receive,
            )
        except (OSError, SealserveError) as error:
            self._forget(stream)
            stream.close()
            if self._lines.admit(peer, "administration.handshake", datetime.now(UTC)):
                reason = error.reason if isinstance(error, ssl.SSLError) else error
                _LOG.warning("the administration API rejected a connection of %s: %s", peer, reason)
        else:
            if stream in self._open:
                self._open[stream] = True

    def _forget(self, stream: socket.socket) -> None:
        self._open.pop(stream, None)
        self._lost.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, Connection):
            request.protocol.header_received()
        try:
            content = await self._answer(request)
            response = web.Response(body=content, content_type="application/json", headers=HEADERS)
            response.force_close()
        except SealserveError as error:
            response = problem(error)
        except Exception:  # noqa: BLE001  # an error in one request must not stop the server
            _LOG.exception("a request of the administration API failed with an unexpected error")
            response = problem(internal_error())
        try:
            async with asyncio.timeout(self._limits.send):  # limits a client that does not read
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _answer(self, request: web.BaseRequest) -> bytes:
        # 1. Verify the client's certificate again, with the revocation list of this moment.
        now, peer = datetime.now(UTC), _peer(request)
        try:
            administrator = AdministratorTrust.read(self._trust).identify(_peer_certificate(request), now=now)
        except SealserveError as error:
            if self._lines.admit(peer, error.code, now):
                _LOG.warning("the administration API refused the certificate of %s: %s", peer, error.code)
            raise
        name = administrator.name
        try:
            # 2. Limit the rate, before any expensive step.
            self._take_turn(administrator)
            # 3. Refuse web browsers. Another site could make an administrator's browser send a form (cross-site request
            # forgery). Browsers send one of these headers with each such request.
            if any(header in request.headers for header in _BROWSER_HEADERS):
                raise refused("the headers", "expected a client that is not a web browser")
            # 4. Find the operation, and check the role before the body is read. An unknown operation is refused.
            path, _, query = request.raw_path.partition("?")
            operation, release = find(request.method, path)
            check_permitted(administrator, operation.name)
            # 5. Receive the body within its limits, and parse it.
            parsed = operation.read(query, await self._body(request, operation.largest or self._limits.body))
            # 6. Run the operation. A change and its audit row are one transaction.
            administration = self._administration(Actor(peer=peer, name=name))
            with self._alone() if operation.slow else contextlib.nullcontext():
                content = await self._in_thread(
                    lambda: operation.call(administration, release, parsed).model_dump_json().encode()
                )
        except SealserveError as error:
            _LOG.warning("refused a request of the administrator %s (%s): %s", name, administrator.role, error.code)
            raise
        if operation.method != "GET":
            _LOG.info("the administrator %s (%s) used %s", name, administrator.role, operation.name)
        return content

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second slow operation, so that it cannot delay the other operations."""
        if self._slow:
            raise _busy("The administration API is already running a long operation.")
        self._slow = True
        try:
            yield
        finally:
            self._slow = False

    async def _in_thread(self, call: Callable[[], bytes]) -> bytes:
        limits = self._limits
        if self._pending >= limits.running + limits.waiting:
            raise _busy("The administration API already handles the maximum number of requests.")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        finally:
            self._pending -= 1

    def _take_turn(self, administrator: Administrator) -> None:
        """Take a token of the administrator's bucket. Names come from certificates, so there are few buckets."""
        limits, now = self._limits, time.monotonic()
        tokens, at = self._allowances.get(administrator.name, (float(limits.burst), now))
        tokens = min(limits.burst, tokens + (now - at) * limits.rate)
        self._allowances[administrator.name] = (max(tokens - 1, 0), now)
        if tokens < 1:
            raise _busy(f"The administrator {administrator.name} sends more than {limits.rate:g} requests per second.")

    async def _body(self, request: web.BaseRequest, limit: int) -> bytes:
        if "Content-Encoding" in request.headers:
            raise refused("the body", "expected no Content-Encoding")
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        content = bytearray()
        try:
            async with asyncio.timeout(self._limits.receive):
                async for part in request.content.iter_any():
                    content += part
                    if len(content) > limit:
                        raise _too_large(limit)
        except TimeoutError as error:
            raise BrokerCode.ADMINISTRATION_SLOW.error(
                f"The body of the request did not arrive within {self._limits.receive:g} s."
            ) from error
        except web.RequestPayloadError as error:
            raise refused("the body", "it does not match its headers") from error
        if content and request.content_type != "application/json":
            raise refused("the body", "expected the content type application/json")
        return bytes(content)


def _cut(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has already ended
        stream.shutdown(socket.SHUT_RDWR)


def _peer(request: web.BaseRequest) -> str:
    address = None if request.transport is None else request.transport.get_extra_info("peername")
    return with_port(*address[:2]) if address else "unknown"


def _peer_certificate(request: web.BaseRequest) -> bytes:
    transport = request.transport
    session = None if transport is None else transport.get_extra_info("ssl_object")
    certificate: bytes | None = None if session is None else session.getpeercert(binary_form=True)
    return certificate or b""  # without a certificate, the verification fails


def _too_large(limit: int) -> SealserveError:
    return BrokerCode.ADMINISTRATION_SIZE.error(
        f"The body of the request is too large: expected at most {limit} bytes."
    )


def _busy(message: str) -> SealserveError:
    return BrokerCode.ADMINISTRATION_BUSY.error(message, hint="Wait a second, and send the request again.")
