"""The connection between gRPC and the server's methods: routes by path, message parsing, errors as status codes."""

import logging
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from google.protobuf.message import DecodeError

from sealserve.serving.metrics import Metrics
from sealserve.serving.receipts import Receipts
from sealserve.serving.request_errors import RequestCode, RequestError, Status, short
from sealserve.serving.spans import Begin
from sealserve.serving.wire.lanes import Job, Lane
from sealserve.serving.wire.transport import Call, Handler
from sealserve.serving_interface import INSTANCE_HEADER, RECEIPT_HEADER

logger = logging.getLogger(__name__)

Method = Callable[[bytes, float | None], bytes]
"""Takes the serialized request and the deadline (`time.monotonic`, or None); returns the serialized answer."""
Answer = Callable[[Any, float | None], Any]
"""Takes the request and the deadline (`time.monotonic`, or None); returns the answer. Both are messages."""

INSTANCE: Final = secrets.token_hex(8)
TRAILER: Final = ((INSTANCE_HEADER, INSTANCE),)

_PUSHBACK: Final = "grpc-retry-pushback-ms"
"""Tells gRPC's own retries, and people, when to repeat a call.

Source: grpc/proposal, ``A6-client-retries.md`` (pushback).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method, and the lane for its requests.

    Args:
        method: The method.
        lane: The lane.
        receipts: Adds a receipt to an answer whose request asks for it; None if the method has no receipts. Then a
            request for a receipt is ignored.
        admit: Raises a `RequestError` if the client, by its identifier, has sent too many requests; None for no limit.
        begin_trace: Decides whether a request is traced; None if no request is.
    """

    method: Method
    lane: Lane
    receipts: Receipts | None = None
    admit: Callable[[bytes], None] | None = None
    begin_trace: Begin | None = None


def refusal(reason: str) -> Method:
    """Return a method that always fails with UNIMPLEMENTED and ``reason``."""

    def refuse(_content: bytes, _deadline: float | None) -> bytes:
        raise RequestCode.UNIMPLEMENTED.error(reason)

    return refuse


def parsed(kind: Any, answer: Answer) -> Method:
    """Return ``answer`` as a method with serialized messages.

    Args:
        kind: The class of the request's message.
        answer: Answers the message.
    """

    def method(content: bytes, deadline: float | None) -> bytes:
        return bytes(answer(_parse(kind, content), deadline).SerializeToString())

    return method


def _named_in_spec(request: Any) -> str:
    return str(request.model_spec.name)


def counted(
    api: str,
    kind: Any,
    answer: Answer,
    metrics: Metrics,
    model: Callable[[Any], str] = _named_in_spec,
    *,
    check: Callable[[bytes], None] = lambda _: None,
) -> Method:
    """Return a method like `parsed`, whose requests are also counted and timed.

    Args:
        api: The name of the method in the metrics.
        kind: The class of the request's message.
        answer: Answers the message.
        metrics: The metrics to update.
        model: Returns the name of the model in a request. By default the name in its ``model_spec``.
        check: Checks the serialized message before it is parsed.
    """

    def method(content: bytes, deadline: float | None) -> bytes:
        with metrics.timed(api) as timed:
            check(content)
            request = _parse(kind, content)
            timed.model = model(request)
            return bytes(answer(request, deadline).SerializeToString())

    return method


def _parse(kind: Any, content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise RequestCode.MALFORMED.error(f"The request is not a valid {kind.DESCRIPTOR.name} message.") from error


def handlers(routes: Mapping[str, Route]) -> Mapping[str, Handler]:
    """Return the handlers for the routes' calls.

    Args:
        routes: The routes by gRPC path, such as ``/tensorflow.serving.PredictionService/Predict``.
    """
    return {path: _handler(route) for path, route in routes.items()}


def _handler(route: Route) -> Handler:
    def handle(call: Call) -> None:
        trace = None if route.begin_trace is None else route.begin_trace(call.metadata)
        method = route.method if trace is None else trace.watched(route.method)

        def refuse(error: RequestError) -> None:
            if trace is not None:
                trace.end(error.status)
            _refusal(call, error)()

        job = Job(work=lambda: run(call, method, route.receipts), refuse=refuse, client=call.peer)

        def cancel() -> None:
            if route.lane.withdraw(job):
                if trace is not None:
                    trace.end(Status.CANCELLED)
                call.refuse(Status.CANCELLED, "")  # the client is gone, but the call must end

        call.on_cancel = cancel  # an earlier cancellation is checked when the job runs
        try:
            if route.admit is not None:
                route.admit(call.peer())
        except RequestError as error:
            refuse(error)
            return
        route.lane.run(job)

    return handle


def run(call: Call, method: Method, receipts: Receipts | None = None) -> Callable[[], None]:
    """Run a method, and return a function that sends its answer or its error."""
    if call.cancelled:
        return partial(call.refuse, Status.CANCELLED, "")
    try:
        if receipts is not None and receipts.wanted(call.metadata):
            request_sha256 = receipts.begin(call.content)
            content = method(call.content, call.deadline)
            return partial(call.answer, content, ((RECEIPT_HEADER, receipts.sign(request_sha256, content)),))
        content = method(call.content, call.deadline)
    except RequestError as error:
        return _refusal(call, error)
    except Exception:
        logger.exception("a request failed with an unexpected error")
        return partial(call.refuse, Status.INTERNAL, "internal")
    return partial(call.answer, content)


def _refusal(call: Call, error: RequestError) -> Callable[[], None]:
    details = short(error.message)
    if error.retry_after is None:
        return partial(call.refuse, error.status, details)
    pushback = (_PUSHBACK, str(math.ceil(error.retry_after * 1000)))
    return partial(call.refuse, error.status, details, (pushback,))
