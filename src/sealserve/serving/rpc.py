"""Where gRPC meets the server: methods by path, requests and answers as bytes, errors as status codes."""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.workers import Workers

logger = logging.getLogger(__name__)

Method = Callable[[bytes, float | None], bytes]
"""Serialised request and deadline (on the clock of `time.monotonic`, or None) to serialised answer."""

INSTANCE_HEADER: Final = "x-sealserve-instance"
"""Trailing metadata of every answer: which process gave it, by a random name that is new at each start. Behind a proxy
that balances connections, a client can tell replicas apart by it."""
INSTANCE: Final = secrets.token_hex(8)

_MESSAGE_LIMIT: Final = 1024
"""As ``model_servers/grpc_status_util.cc`` has it."""

_GRPC_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class NotImplementedMethodError(RequestError):
    """TensorFlow Serving has this method, and this server does not."""

    code = "request.unimplemented"
    status = Status.UNIMPLEMENTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method, and the threads that run it."""

    method: Method
    workers: Workers


def refusal(reason: str) -> Method:
    """Return a method that only says why it is not there."""

    def refuse(_content: bytes, _deadline: float | None) -> bytes:
        raise NotImplementedMethodError(reason)

    return refuse


class Methods(grpc.GenericRpcHandler):
    """The unary methods of the server.

    Args:
        routes: By gRPC path, such as ``/tensorflow.serving.PredictionService/Predict``.
    """

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.unary_unary_rpc_method_handler(_edge(route)) for path, route in routes.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, or None where there is no such method."""
        return self._handlers.get(handler_call_details.method)


def _edge(route: Route) -> Any:
    async def handle(content: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        remaining = context.time_remaining()
        context.set_trailing_metadata(((INSTANCE_HEADER, INSTANCE),))
        deadline = None if remaining is None else time.monotonic() + remaining
        try:
            return await route.workers.run(route.method, content, deadline)
        except RequestError as error:
            await _refuse(context, error.status, error.message)
        except Exception:
            logger.exception("a request failed for a reason that is not the request's")
            await _refuse(context, Status.INTERNAL, "internal")

    return handle


async def _refuse(context: "grpc.aio.ServicerContext[bytes, bytes]", status: Status, message: str) -> NoReturn:
    details = message if len(message) <= _MESSAGE_LIMIT else f"{message[:_MESSAGE_LIMIT]}...TRUNCATED"
    await context.abort(_GRPC_CODES[status], details)
