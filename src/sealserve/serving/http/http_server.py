"""HTTP on the wire: the REST API and the page of metrics, with limits on what a peer can hold.

Source: tensorflow/serving, ``model_servers/http_server.cc`` (dispatch, CORS, the metrics' page) and
``util/net_http/server/internal/evhttp_request.cc`` (gzip).
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11, web

from sealserve.serving.http.connection import QUIET, SERVER, Connection, Connections, answer_in_http11
from sealserve.serving.http.memory import Loan, NoMemoryError
from sealserve.serving.http.rest import HTTP_STATUS, Answer, Rest, error_body
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import Status
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.listening import taken

_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_CLOSING: Final = 1.0
"""Seconds that answers have to leave, once nothing runs any more."""
_LOOK: Final = 0.01
"""Seconds between looks for idle connections while the server drains."""
_NO_MEMORY: Final = "The server is busy: it has no memory for more."
_GZIP_FROM: Final = 1024
"""Smaller answers are not worth compressing."""
_PIECE: Final = 256 * 1024
"""Bytes of an answer that are written at a time."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What bounds the server.

    Args:
        threads: How many requests are answered at once.
        waiting: How many more may wait.
        body: The largest body, in bytes, once it is unpacked.
        timeout: Seconds that an answer may take; None for any.
        patience: Seconds that a request or an answer may be on its way.
        max_age: Seconds after which a connection is closed; None for no limit.
    """

    threads: int
    waiting: int
    body: int
    timeout: float | None
    patience: float
    max_age: float | None = None


class HttpServer:
    """One HTTP port.

    Args:
        rest: The REST API, or None where this port does not have it.
        metrics_path: Where the page of metrics is, or None.
        metrics: What is on the page, and where refused requests are counted.
        limits: What bounds it.
        allowance: The bytes that requests and answers may take.
        cors: Whether browsers on other sites may ask.
        gzip: Whether answers are compressed for clients that accept it.
    """

    def __init__(
        self,
        *,
        rest: Rest | None,
        metrics_path: str | None,
        metrics: Metrics,
        limits: HttpLimits,
        allowance: Allowance,
        cors: bool = False,
        gzip: bool = False,
    ) -> None:
        self._rest = rest
        self._metrics_path = metrics_path
        self._metrics = metrics
        self._limits = limits
        self._allowance = allowance
        self._cors = _CORS if cors else {}
        self._gzip = gzip
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="rest")
        self._open = 0
        self._draining = False
        self._runner: web.ServerRunner | None = None
        self._connections: Connections | None = None

    async def start(self, address: str, context: ssl.SSLContext | None) -> int:
        """Listen on ``host:port``; return the port.

        Raises:
            PortTakenError: Something listens there.
        """
        server = Connections(self._handle, patience=self._limits.patience, max_age=self._limits.max_age)
        self._connections = server
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        host, _, port = address.rpartition(":")
        every = host == "[::]"  # which is IPv6 alone for asyncio; without a host it listens on both kinds
        site = web.TCPSite(
            self._runner, None if every else host.strip("[]"), int(port), ssl_context=context, reuse_port=False
        )
        try:
            await site.start()
        except OSError as error:
            raise taken(address) from error
        return int(self._runner.addresses[0][1])

    @property
    def pending(self) -> int:
        """How many requests are read, run or wait."""
        return self._open

    def retire(self) -> None:
        """Let the connections that are open end with their next answer, or as soon as they are idle."""
        if self._connections is not None:
            self._connections.retire()

    async def stop(self, grace: float) -> bool:
        """Take no more connections, and let the requests of the open ones finish; return whether all did.

        From now on each answer closes its connection. Connections without a request are closed.

        Args:
            grace: Seconds that requests have.
        """
        if self._runner is not None and self._connections is not None:
            end = time.monotonic() + grace
            await asyncio.sleep(_LOOK)  # connections that wait to be accepted would be reset
            for site in list(self._runner.sites):
                await site.stop()
            # Only now: a client whose connection is closed by an answer connects again, and must be refused, not reset.
            self._draining = True
            await asyncio.sleep(_LOOK)
            while self._connections.close_idle(QUIET) and time.monotonic() < end:  # noqa: ASYNC110  # silence is no event
                await asyncio.sleep(_LOOK)
            ended = not self._open
            await self._connections.shutdown(_CLOSING)
            await self._runner.cleanup()
        else:
            ended = True
        self._pool.shutdown(wait=ended, cancel_futures=True)
        return ended

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with Loan(self._allowance) as loan:
            answer, kind = await self._answer(request, loan)
            response, rest = _response(answer)
            if kind:
                response.headers["Content-Type"] = kind
            if self._rest is not None:
                response.headers.update(self._cors)
            if self._gzip and len(answer.body) >= _GZIP_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
                response.enable_compression(web.ContentCoding.gzip)
            connection = request.protocol if isinstance(request.protocol, Connection) else None
            if self._draining or answer.closes or (connection is not None and connection.is_old):
                response.force_close()
            if _expectation(request) and not request.content.is_eof():  # refused: the client may never send the body
                response.force_close()
                if connection is not None:
                    connection.ignore_body()
            loan.take_anyway(len(answer.body))
            await self._send(request, response, rest)
        return response

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse, rest: bytes) -> None:
        """Send a response, and then the body in pieces where it is not in the response."""
        try:
            async with asyncio.timeout(self._limits.patience):  # a client that does not read
                await response.prepare(request)
                for start in range(0, len(rest), _PIECE):
                    await response.write(rest[start : start + _PIECE])
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        if isinstance(request.protocol, Connection):
            request.protocol.mark_used()

    async def _answer(self, request: web.BaseRequest, loan: Loan) -> tuple[Answer, str]:
        if request.version not in {HttpVersion10, HttpVersion11}:
            answer_in_http11(request)
            return _closing(505, "The only versions that are supported are HTTP/1.0 and HTTP/1.1."), "application/json"
        expected = _expectation(request)
        if expected not in {"", "100-continue"}:
            return _closing(417, "The only expectation that is supported is 100-continue."), "application/json"
        path = _origin_form(request.raw_path)
        if self._metrics_path is not None and path.partition("?")[0] == self._metrics_path:
            return self._page(path)
        if self._rest is None or not self._rest.knows(path):
            return Answer(404, b""), ""
        if request.method == "OPTIONS":
            return self._preflight(request), "application/json"
        return await self._ask(self._rest, request, path, loan), "application/json"

    def _page(self, path: str) -> tuple[Answer, str]:
        if path != self._metrics_path:
            text = f"Unexpected path: {path}. Should be {self._metrics_path}"
            return Answer(400, text.encode()), "text/plain"
        if self._allowance.is_short():
            return self._refusal(Status.RESOURCE_EXHAUSTED, _NO_MEMORY), "application/json"
        return Answer(200, self._metrics.page().encode()), "text/plain"

    def _refusal(self, status: Status, message: str) -> Answer:
        self._metrics.request("", status)
        return Answer(HTTP_STATUS[status], error_body(message))

    def _preflight(self, request: web.BaseRequest) -> Answer:
        origin = request.headers.get("Origin", "")
        status = Status.OK if "http://" in origin or "https://" in origin else Status.FAILED_PRECONDITION
        self._metrics.request("", status)
        return Answer(HTTP_STATUS[status], b"")

    async def _ask(self, rest: Rest, request: web.BaseRequest, path: str, loan: Loan) -> Answer:
        limits = self._limits
        if (request.content_length or 0) > limits.body and "Content-Encoding" not in request.headers:
            return _too_large(limits.body)
        if self._open >= limits.threads + limits.waiting:
            return self._refusal(Status.RESOURCE_EXHAUSTED, "The server is busy: as many requests run or wait already.")
        self._open += 1
        try:
            if _expectation(request) and request.transport is not None:
                request.transport.write(_CONTINUE)
            body = await self._read(request, loan)
            if isinstance(body, Answer):
                return body
            deadline = None if limits.timeout is None else time.monotonic() + limits.timeout
            ask: Callable[[], Answer] = lambda: rest.answer(request.method, path, body, deadline, loan)  # noqa: E731  # typed
            return await asyncio.get_running_loop().run_in_executor(self._pool, ask)
        finally:
            loan.give_back(loan.size)
            self._open -= 1

    async def _read(self, request: web.BaseRequest, loan: Loan) -> bytearray | Answer:
        """Return the body, unpacked, whose bytes are borrowed; or why not."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.patience):
                async for part in request.content.iter_any():
                    if len(body) + len(part) > self._limits.body:
                        return _too_large(self._limits.body)
                    loan.take(len(part))
                    body += part
        except NoMemoryError as error:
            return self._refusal(error.status, error.message)
        except TimeoutError:
            return self._refusal(Status.DEADLINE_EXCEEDED, "The request was too long on its way.")
        except web.RequestPayloadError:
            return self._refusal(Status.INVALID_ARGUMENT, "The body is not what its headers say.")
        return body


def _response(answer: Answer) -> tuple[web.StreamResponse, bytes]:
    """Return the response without its headers, and the body where that is written in pieces: at once, it is copied."""
    if len(answer.body) <= _PIECE:
        return web.Response(status=answer.status, body=answer.body, headers=SERVER), b""
    response = web.StreamResponse(status=answer.status, headers=SERVER)
    response.content_length = len(answer.body)
    return response, answer.body


def _expectation(request: web.BaseRequest) -> str:
    """Return what the client waits for before it sends the body; HTTP/1.0 does not have expectations."""
    return request.headers.get("Expect", "").strip().lower() if request.version >= HttpVersion11 else ""


def _origin_form(target: str) -> str:
    """Return the path and the query of a request target: clients of proxies put the scheme and the host in front."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def _closing(status: int, message: str) -> Answer:
    return Answer(status, error_body(message), closes=True)


def _too_large(limit: int) -> Answer:
    return _closing(413, f"The body takes more than {limit} bytes (--rest_api_max_body_bytes).")
