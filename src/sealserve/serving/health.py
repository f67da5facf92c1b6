"""The gRPC health service, which probes and clients ask whether the server takes requests.

Its messages are described here and live in a descriptor pool of their own, so that the official package
``grpcio-health-checking``, which registers the same names, can be imported beside it.

Source: grpc/grpc, ``src/proto/grpc/health/v1/health.proto`` and ``doc/health-checking.md``. The names
``PredictionService`` and ``ModelService`` are those that TensorFlow Serving registers (``model_servers/server.cc``).
"""

import asyncio
from collections.abc import AsyncIterator
from enum import IntEnum
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

SERVICES: Final = frozenset(
    {
        *("", "grpc.health.v1.Health", "PredictionService", "ModelService"),
        *("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"),
    }
)
_FIELD: Final = descriptor_pb2.FieldDescriptorProto


class ServingStatus(IntEnum):
    """``HealthCheckResponse.ServingStatus``."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def _messages() -> tuple[Any, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="grpc/health/v1/health.proto", package="grpc.health.v1")
    file.syntax = "proto3"
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    response = file.message_type.add(name="HealthCheckResponse")
    status = response.enum_type.add(name="ServingStatus")
    for value in ServingStatus:
        status.value.add(name=value.name, number=value)
    response.field.add(
        name="status",
        number=1,
        type=_FIELD.TYPE_ENUM,
        label=_FIELD.LABEL_OPTIONAL,
        type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("grpc.health.v1.HealthCheckRequest", "grpc.health.v1.HealthCheckResponse")
    return tuple(message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)  # type: ignore[return-value]  # two names, two classes


HealthCheckRequest, HealthCheckResponse = _messages()


class Health(grpc.GenericRpcHandler):
    """``grpc.health.v1.Health``: serving from the start (the port opens only then), until `stop`."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(self._check),
            "/grpc.health.v1.Health/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    def stop(self) -> None:
        """Say "not serving" from now on, and end every watch with it."""
        self._stopped.set()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, or None where there is no such method."""
        return self._handlers.get(handler_call_details.method)

    def _status(self, content: bytes) -> ServingStatus:
        try:
            service = HealthCheckRequest.FromString(content).service
        except DecodeError:
            return ServingStatus.SERVICE_UNKNOWN
        if service not in SERVICES:
            return ServingStatus.SERVICE_UNKNOWN
        return ServingStatus.NOT_SERVING if self._stopped.is_set() else ServingStatus.SERVING

    async def _check(self, content: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        status = self._status(content)
        if status is ServingStatus.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _response(status)

    async def _watch(self, content: bytes, _context: "grpc.aio.ServicerContext[bytes, bytes]") -> AsyncIterator[bytes]:
        status = self._status(content)
        yield _response(status)
        if status is not ServingStatus.NOT_SERVING:
            await self._stopped.wait()
        if status is ServingStatus.SERVING:
            yield _response(ServingStatus.NOT_SERVING)


def _response(status: ServingStatus) -> bytes:
    return bytes(HealthCheckResponse(status=int(status)).SerializeToString())
