"""The HTTP server: the REST API and the metrics page, with limits on the resources that a client can use.

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
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion10, HttpVersion11, web

from sealserve.serving.evidence import Evidence
from sealserve.serving.http.api import HTTP_STATUS, Answer, Api, error_body, refusal
from sealserve.serving.http.attested_answers import RECEIPT_FIELD, admit, present, with_receipt
from sealserve.serving.http.connection import QUIET, SERVER, Connection, Connections, answer_in_http11
from sealserve.serving.http.memory import Loan, NoMemoryError
from sealserve.serving.metrics import Metrics
from sealserve.serving.receipts import Receipts
from sealserve.serving.request_errors import Status
from sealserve.serving.spans import RequestTrace
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.listening import taken
from sealserve.serving_interface import BINARY_HEADER, EVIDENCE_PATH
from sealserve.tracing.trace_context import TRACEPARENT

if TYPE_CHECKING:  # imported only if traces are on
    from sealserve.serving.tracing import Tracing

_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": f"Content-Type, {BINARY_HEADER}",
    "Access-Control-Expose-Headers": BINARY_HEADER,
}
_ATTESTED_CORS: Final = {
    **_CORS,
    "Access-Control-Allow-Headers": f"Content-Type, {BINARY_HEADER}, {RECEIPT_FIELD}",
    "Access-Control-Expose-Headers": f"{BINARY_HEADER}, {RECEIPT_FIELD}, Retry-After",
}
_CLOSING: Final = 1.0
"""Seconds for sending the last answers, when no request runs any more."""
_LOOK: Final = 0.01
"""Seconds between checks for idle connections while the server drains."""
_NO_MEMORY: Final = "The server is busy: the memory for requests is full."
_GZIP_FROM: Final = 1024
"""Minimum bytes of an answer for compression. Compressing smaller answers is not worthwhile."""
_PIECE: Final = 256 * 1024
"""Maximum bytes of an answer that are written at a time."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The limits of the server.

    Args:
        threads: Maximum number of requests that are answered at the same time.
        waiting: Maximum number of further requests that may wait.
        body: Maximum size of a body in bytes, after decompression.
        timeout: Maximum seconds for an answer; None for no limit.
        patience: Maximum seconds for receiving a request or sending an answer.
        max_age: Seconds after which a connection is closed; None for no limit.
    """

    threads: int
    waiting: int
    body: int
    timeout: float | None
    patience: float
    max_age: float | None = None


class HttpServer:
    """An HTTP port.

    Args:
        rest: TensorFlow Serving's REST API, or None if this port does not serve it.
        open_inference: The Open Inference Protocol, or None.
        metrics_path: The path of the metrics page, or None.
        metrics: The metrics on the page, in which rejected requests are counted too.
        limits: The server's limits.
        allowance: The bytes that requests and answers may use.
        receipts: Adds a receipt to an answer whose request asks for it; None if the port has no receipts.
        evidence: Answers requests for evidence, or None.
        tracing: The traces, or None if they are off.
        cors: Whether web pages from other sites may send requests.
        gzip: Whether answers are compressed for clients that accept it.
    """

    def __init__(
        self,
        *,
        rest: Api | None,
        open_inference: Api | None = None,
        metrics_path: str | None,
        metrics: Metrics,
        limits: HttpLimits,
        allowance: Allowance,
        receipts: Receipts | None = None,
        evidence: Evidence | None = None,
        tracing: "Tracing | None" = None,
        cors: bool = False,
        gzip: bool = False,
    ) -> None:
        self._apis = [api for api in (rest, open_inference) if api is not None]
        self._metrics_path = metrics_path
        self._metrics = metrics
        self._limits = limits
        self._allowance = allowance
        self._receipts = receipts
        self._evidence = evidence
        self._tracing = tracing
        self._evidence_thread = ThreadPoolExecutor(1, thread_name_prefix="evidence")
        self._cors = {} if not cors else _CORS if evidence is None else _ATTESTED_CORS
        self._gzip = gzip
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="rest")
        self._open = 0
        self._draining = False
        self._runner: web.ServerRunner | None = None
        self._connections: Connections | None = None

    async def start(self, address: str, context: ssl.SSLContext | None) -> int:
        """Listen on ``host:port``; return the port.

        Raises:
            PortTakenError: Another process listens on the port.
        """
        server = Connections(self._handle, patience=self._limits.patience, max_age=self._limits.max_age)
        self._connections = server
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        host, _, port = address.rpartition(":")
        every = host == "[::]"  # asyncio would listen on IPv6 only; without a host it listens on IPv4 too
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
        """The number of requests that are being read, are running, or are waiting."""
        return self._open

    def retire(self) -> None:
        """Close the open connections with their next answer, or as soon as they are idle."""
        if self._connections is not None:
            self._connections.retire()

    async def stop(self, grace: float) -> bool:
        """Stop accepting connections, and let the requests of open connections finish; return whether all did.

        From now on each answer closes its connection. Connections without a request are closed.

        Args:
            grace: Maximum seconds to wait for requests.
        """
        if self._runner is not None and self._connections is not None:
            end = time.monotonic() + grace
            await asyncio.sleep(_LOOK)  # accept pending connections first, because closing the socket resets them
            for site in list(self._runner.sites):
                await site.stop()
            # Set this only now: a client whose connection an answer closes connects again, and must then be refused.
            self._draining = True
            await asyncio.sleep(_LOOK)
            while self._connections.close_idle(QUIET) and time.monotonic() < end:  # noqa: ASYNC110  # no event
                await asyncio.sleep(_LOOK)
            ended = not self._open
            await self._connections.shutdown(_CLOSING)
            await self._runner.cleanup()
        else:
            ended = True
        self._pool.shutdown(wait=ended, cancel_futures=True)
        self._evidence_thread.shutdown(wait=ended, cancel_futures=True)
        return ended

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with Loan(self._allowance) as loan:
            answer, kind = await self._answer(request, loan)
            response, rest = _response(answer)
            if kind:
                response.headers["Content-Type"] = kind
            if self._apis:
                response.headers.update(self._cors)
            response.headers.update(answer.headers)
            if self._gzip and _is_compressible(answer) and "gzip" in request.headers.get("Accept-Encoding", ""):
                response.enable_compression(web.ContentCoding.gzip)
            connection = request.protocol if isinstance(request.protocol, Connection) else None
            if self._draining or answer.closes or (connection is not None and connection.is_old):
                response.force_close()
            if _expectation(request) and not request.content.is_eof():  # rejected: the client may never send the body
                response.force_close()
                if connection is not None:
                    connection.ignore_body()
            loan.take_anyway(len(answer.body))
            await self._send(request, response, rest)
        return response

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse, rest: bytes) -> None:
        """Send a response, and its body in pieces if the body is not part of the response object."""
        try:
            async with asyncio.timeout(self._limits.patience):  # limits a client that does not read
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
        if self._evidence is not None and path.partition("?")[0] == EVIDENCE_PATH:
            answer = await self._answer_evidence(self._evidence, request, path)
        elif (api := next((api for api in self._apis if api.knows(path)), None)) is None:
            return Answer(404, b""), ""
        elif request.method == "OPTIONS":
            answer = self._preflight(request)
        else:
            answer = await self._ask(api, request, path, loan)
        return answer, "application/json"

    async def _answer_evidence(self, evidence: Evidence, request: web.BaseRequest, path: str) -> Answer:
        if request.method == "OPTIONS" and self._cors:
            return self._preflight(request)
        if (refused := admit(evidence, request)) is not None:
            return refused
        work = partial(present, evidence, path.partition("?")[2])
        return await asyncio.get_running_loop().run_in_executor(self._evidence_thread, work)

    def _page(self, path: str) -> tuple[Answer, str]:
        if path != self._metrics_path:
            text = f"Unexpected path: {path}. Should be {self._metrics_path}"
            return Answer(400, text.encode()), "text/plain"
        if self._allowance.is_short():
            return self._refusal(Status.RESOURCE_EXHAUSTED, _NO_MEMORY), "application/json"
        return Answer(200, self._metrics.page().encode()), "text/plain"

    def _refusal(self, status: Status, message: str) -> Answer:
        self._metrics.request("", status)
        return refusal(status, message)

    def _preflight(self, request: web.BaseRequest) -> Answer:
        origin = request.headers.get("Origin", "")
        status = Status.OK if "http://" in origin or "https://" in origin else Status.FAILED_PRECONDITION
        self._metrics.request("", status)
        return Answer(HTTP_STATUS[status], b"")

    async def _ask(self, api: Api, request: web.BaseRequest, path: str, loan: Loan) -> Answer:
        limits = self._limits
        if (request.content_length or 0) > limits.body and "Content-Encoding" not in request.headers:
            return _too_large(limits.body)
        if self._open >= limits.threads + limits.waiting:
            return self._refusal(Status.RESOURCE_EXHAUSTED, "The server is busy: too many requests run or wait.")
        self._open += 1
        try:
            if _expectation(request) and request.transport is not None:
                request.transport.write(_CONTINUE)
            body = await self._read(request, loan)
            if isinstance(body, Answer):
                return body
            deadline = None if limits.timeout is None else time.monotonic() + limits.timeout
            headers = request.headers.items()
            ask: Callable[[], Answer] = lambda: api.answer(request.method, path, body, deadline, loan, headers=headers)  # noqa: E731  # typed
            if self._receipts is not None and RECEIPT_FIELD in request.headers:
                ask = partial(with_receipt, self._receipts, request, body, ask)
            if self._tracing is not None and request.method == "POST":
                trace = self._tracing.http(path, request.headers.getall(TRACEPARENT, []))
                ask = ask if trace is None else partial(_traced, trace, ask)
            return await asyncio.get_running_loop().run_in_executor(self._pool, ask)
        finally:
            loan.give_back(loan.size)
            self._open -= 1

    async def _read(self, request: web.BaseRequest, loan: Loan) -> bytearray | Answer:
        """Return the decompressed body, whose bytes are charged to the loan; or the answer that rejects it."""
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
            return self._refusal(Status.DEADLINE_EXCEEDED, "The request took too long to arrive.")
        except web.RequestPayloadError:
            return self._refusal(Status.INVALID_ARGUMENT, "The body does not match its headers.")
        return body


def _traced(trace: RequestTrace, ask: Callable[[], Answer]) -> Answer:
    with trace.answering() as end:
        answer = ask()
        end(answer.status)
    return answer


def _is_compressible(answer: Answer) -> bool:
    """Return whether an answer may be compressed. A receipt covers the bytes of the body."""
    return len(answer.body) >= _GZIP_FROM and RECEIPT_FIELD not in answer.headers


def _response(answer: Answer) -> tuple[web.StreamResponse, bytes]:
    """Return the response without its headers, and the body if it is written in pieces to avoid a copy."""
    if len(answer.body) <= _PIECE:
        return web.Response(status=answer.status, body=answer.body, headers=SERVER), b""
    response = web.StreamResponse(status=answer.status, headers=SERVER)
    response.content_length = len(answer.body)
    return response, answer.body


def _expectation(request: web.BaseRequest) -> str:
    """Return the client's Expect header, in lower case. HTTP/1.0 does not have expectations."""
    return request.headers.get("Expect", "").strip().lower() if request.version >= HttpVersion11 else ""


def _origin_form(target: str) -> str:
    """Return the path and the query of a request target. Clients of proxies prepend the scheme and the host."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def _closing(status: int, message: str) -> Answer:
    return Answer(status, error_body(message), closes=True)


def _too_large(limit: int) -> Answer:
    return _closing(413, f"The body is larger than {limit} bytes (--rest_api_max_body_bytes).")
