"""HTTP on the wire: the REST API and the page of metrics, with limits on what a peer can hold.

Source: tensorflow/serving, ``model_servers/http_server.cc`` (dispatch, CORS, the metrics' page) and
``util/net_http/server/internal/evhttp_request.cc`` (gzip).
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web

from sealserve.serving.http.rest import HTTP_STATUS, Answer, Rest, error_body
from sealserve.serving.metrics import METRICS
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
_NO_MEMORY: Final = "The server is busy: it has no memory for more."
_GZIP_FROM: Final = 1024
"""Smaller answers are not worth compressing."""
_quiet: Final = logging.getLogger("sealserve.serving.http.http_server.wire")
_quiet.setLevel(logging.CRITICAL)  # a message about bytes that are no HTTP would quote them


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What bounds the server.

    Args:
        threads: How many requests are answered at once.
        waiting: How many more may wait.
        body: The largest body, in bytes, once it is unpacked.
        timeout: Seconds that an answer may take; None for any.
        patience: Seconds that a request or an answer may be on its way.
    """

    threads: int
    waiting: int
    body: int
    timeout: float | None
    patience: float


class _Connection(web.RequestHandler):
    """A connection whose errors do not quote what came over it."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes
    ) -> web.StreamResponse:
        """Return the answer to what is no HTTP, without aiohttp's ``message`` about it."""
        return super().handle_error(request, status, exc, HTTPStatus(status).phrase)


class _Wire(web.Server):
    """What makes such connections."""

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


class HttpServer:
    """One HTTP port.

    Args:
        rest: The REST API, or None where this port does not have it.
        metrics_path: Where the page of metrics is, or None.
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
        limits: HttpLimits,
        allowance: Allowance,
        cors: bool = False,
        gzip: bool = False,
    ) -> None:
        self._rest = rest
        self._metrics_path = metrics_path
        self._limits = limits
        self._allowance = allowance
        self._cors = _CORS if cors else {}
        self._gzip = gzip
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="rest")
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._runner: web.ServerRunner | None = None

    async def start(self, address: str, context: ssl.SSLContext | None) -> int:
        """Listen on ``host:port``; return the port.

        Raises:
            PortTakenError: Something listens there.
        """
        server = _Wire(
            self._handle,
            access_log=None,
            keepalive_timeout=self._limits.patience,
            lingering_time=self._limits.patience,
            logger=_quiet,
        )
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

    async def stop(self, grace: float) -> bool:
        """Take no more requests, and let the running ones finish; return whether all did.

        Args:
            grace: Seconds that they have.
        """
        ended = True
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace)
            ended = not self._open
            if self._runner.server is not None:
                await self._runner.server.shutdown(_CLOSING)
            await self._runner.cleanup()
        self._pool.shutdown(wait=ended, cancel_futures=True)
        return ended

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        answer, kind = await self._answer(request)
        response = web.Response(status=answer.status, body=answer.body, headers={"Server": "sealserve"})
        if kind:
            response.headers["Content-Type"] = kind
        if self._rest is not None:
            response.headers.update(self._cors)
        if self._gzip and len(answer.body) >= _GZIP_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
        self._allowance.take_anyway(len(answer.body))
        try:
            async with asyncio.timeout(self._limits.patience):  # a client that does not read
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._allowance.give_back(len(answer.body))
        return response

    async def _answer(self, request: web.BaseRequest) -> tuple[Answer, str]:
        path = request.raw_path
        if self._metrics_path is not None and path.partition("?")[0] == self._metrics_path:
            return self._metrics(path)
        if self._rest is None or not self._rest.knows(path):
            return Answer(404, b""), ""
        if request.method == "OPTIONS":
            return self._preflight(request), "application/json"
        return await self._ask(self._rest, request, path), "application/json"

    def _metrics(self, path: str) -> tuple[Answer, str]:
        if path != self._metrics_path:
            text = f"Unexpected path: {path}. Should be {self._metrics_path}"
            return Answer(400, text.encode()), "text/plain"
        if self._allowance.is_short():
            return _refusal(Status.RESOURCE_EXHAUSTED, _NO_MEMORY), "application/json"
        return Answer(200, METRICS.page().encode()), "text/plain"

    def _preflight(self, request: web.BaseRequest) -> Answer:
        origin = request.headers.get("Origin", "")
        status = Status.OK if "http://" in origin or "https://" in origin else Status.FAILED_PRECONDITION
        METRICS.request("", status)
        return Answer(HTTP_STATUS[status], b"")

    async def _ask(self, rest: Rest, request: web.BaseRequest, path: str) -> Answer:
        limits = self._limits
        if (request.content_length or 0) > limits.body and "Content-Encoding" not in request.headers:
            return _too_large(limits.body)
        if self._open >= limits.threads + limits.waiting:
            return _refusal(Status.RESOURCE_EXHAUSTED, "The server is busy: as many requests run or wait already.")
        self._open += 1
        self._idle.clear()
        try:
            body = await self._read(request)
            if isinstance(body, Answer):
                return body
            try:
                deadline = None if limits.timeout is None else time.monotonic() + limits.timeout
                ask: Callable[[], Answer] = lambda: rest.answer(request.method, path, body, deadline)  # noqa: E731  # typed
                return await asyncio.get_running_loop().run_in_executor(self._pool, ask)
            finally:
                self._allowance.give_back(len(body))
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def _read(self, request: web.BaseRequest) -> bytes | Answer:
        """Return the body, unpacked, whose bytes are lent by the allowance; or why not."""
        parts: list[bytes] = []
        size = 0
        body: bytes | None = None
        try:
            async with asyncio.timeout(self._limits.patience):
                async for part in request.content.iter_any():
                    if size + len(part) > self._limits.body:
                        return _too_large(self._limits.body)
                    if not self._allowance.take(len(part)):
                        return _refusal(Status.RESOURCE_EXHAUSTED, _NO_MEMORY)
                    size += len(part)
                    parts.append(part)
            body = b"".join(parts)
        except TimeoutError:
            return _refusal(Status.DEADLINE_EXCEEDED, "The request was too long on its way.")
        except web.RequestPayloadError:
            return _refusal(Status.INVALID_ARGUMENT, "The body is not what its headers say.")
        finally:
            if body is None:
                self._allowance.give_back(size)
        return body


def _refusal(status: Status, message: str) -> Answer:
    METRICS.request("", status)
    return Answer(HTTP_STATUS[status], error_body(message))


def _too_large(limit: int) -> Answer:
    return Answer(413, error_body(f"The body takes more than {limit} bytes (--rest_api_max_body_bytes)."))
