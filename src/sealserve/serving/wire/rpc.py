"""Where gRPC meets the server: methods by path, requests and answers as bytes, errors as status codes."""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.wire.lanes import Lane, OverloadedError
from sealserve.serving.wire.transport import Call, Handler
from sealserve.serving_interface import INSTANCE_HEADER

logger = logging.getLogger(__name__)

Method = Callable[[bytes, float | None], bytes]
"""Serialised request and deadline (on the clock of `time.monotonic`, or None) to serialised answer."""

INSTANCE: Final = secrets.token_hex(8)
TRAILER: Final = ((INSTANCE_HEADER, INSTANCE),)

_MESSAGE_LIMIT: Final = 1024
"""As ``model_servers/grpc_status_util.cc`` has it."""


class NotImplementedMethodError(RequestError):
    """TensorFlow Serving has this method, and this server does not."""

    code = "request.unimplemented"
    status = Status.UNIMPLEMENTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method, and the lane that its requests take."""

    method: Method
    lane: Lane


def refusal(reason: str) -> Method:
    """Return a method that only says why it is not there."""

    def refuse(_content: bytes, _deadline: float | None) -> bytes:
        raise NotImplementedMethodError(reason)

    return refuse


def handlers(routes: Mapping[str, Route]) -> Mapping[str, Handler]:
    """Return what answers the calls of each route.

    Args:
        routes: By gRPC path, such as ``/tensorflow.serving.PredictionService/Predict``.
    """
    return {path: _handler(route) for path, route in routes.items()}


def _handler(route: Route) -> Handler:
    def handle(call: Call) -> None:
        def job() -> Callable[[], None]:
            return answer(call, route.method)

        def cancel() -> None:
            if route.lane.withdraw(job):
                call.refuse(Status.CANCELLED, "")  # nobody reads it, and the call ends

        call.on_cancel = cancel  # a sender who went away before is noticed when it is the job's turn
        try:
            route.lane.run(job)
        except OverloadedError as error:
            _refusal(call, error)()

    return handle


def answer(call: Call, method: Method) -> Callable[[], None]:
    """Run a method, and return a function that sends its answer or its error."""
    if call.cancelled:
        return partial(call.refuse, Status.CANCELLED, "")
    try:
        content = method(call.content, call.deadline)
    except RequestError as error:
        return _refusal(call, error)
    except Exception:
        logger.exception("a request failed for a reason that is not the request's")
        return partial(call.refuse, Status.INTERNAL, "internal")
    return partial(call.answer, content)


def _refusal(call: Call, error: RequestError) -> Callable[[], None]:
    message = error.message
    details = message if len(message) <= _MESSAGE_LIMIT else f"{message[:_MESSAGE_LIMIT]}...TRUNCATED"
    return partial(call.refuse, error.status, details)
