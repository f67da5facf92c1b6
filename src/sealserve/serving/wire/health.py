"""The gRPC health service, with which probes and clients check whether the server accepts requests.

Its messages are defined here in a separate descriptor pool. The official package ``grpcio-health-checking`` registers
the same names, and can therefore be imported too.

Source: grpc/grpc, ``src/proto/grpc/health/v1/health.proto`` and ``doc/health-checking.md``. The names
``PredictionService`` and ``ModelService`` are the names that TensorFlow Serving registers
(``model_servers/server.cc``).
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from sealserve.serving.request_errors import Status
from sealserve.serving.wire.transport import Call, Handler

SERVICES: Final = frozenset(
    {
        *("", "grpc.health.v1.Health", "PredictionService", "ModelService"),
        *("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"),
        "inference.GRPCInferenceService",
    }
)
MOST_WATCHES: Final = 256
"""Default maximum number of watches. The server uses a quarter of the transport's idle calls."""
_FIELD: Final = descriptor_pb2.FieldDescriptorProto


class ServingStatus(IntEnum):
    """``HealthCheckResponse.ServingStatus``."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def _file() -> FileDescriptor:
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
    service = file.service.add(name="Health")
    for name, is_stream in (("Check", False), ("Watch", True)):
        method = service.method.add(name=name, server_streaming=is_stream)
        method.input_type = f".{file.package}.HealthCheckRequest"
        method.output_type = f".{file.package}.HealthCheckResponse"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindFileByName(file.name)


HEALTH_FILE: Final = _file()
HealthCheckRequest: Any = message_factory.GetMessageClass(HEALTH_FILE.message_types_by_name["HealthCheckRequest"])
HealthCheckResponse: Any = message_factory.GetMessageClass(HEALTH_FILE.message_types_by_name["HealthCheckResponse"])


@dataclass(slots=True)
class _Watch:
    """A client that watches the health status.

    Args:
        known: Whether the client watches a known service.
        ready: Whether its first message was sent.
    """

    known: bool
    ready: bool = False


class Health:
    """``grpc.health.v1.Health``. It reports SERVING from the start (when the port opens), until `stop`.

    Args:
        watches: Maximum number of concurrent watches.
    """

    def __init__(self, watches: int = MOST_WATCHES) -> None:
        self._most = watches
        self._lock = threading.Lock()
        self._stopped = False
        self._watches: dict[Call, _Watch] = {}
        self.handlers: Mapping[str, Handler] = {
            "/grpc.health.v1.Health/Check": self._check,
            "/grpc.health.v1.Health/Watch": self._watch,
        }

    @property
    def is_serving(self) -> bool:
        """Whether `stop` was not called yet."""
        return not self._stopped

    def stop(self) -> None:
        """Report NOT_SERVING from now on, and end every watch with this status."""
        with self._lock:
            self._stopped = True
            ending = [call for call, watch in self._watches.items() if watch.ready]
        for call in ending:
            self._end(call)

    def _status(self, content: bytes) -> ServingStatus:
        try:
            service = HealthCheckRequest.FromString(content).service
        except DecodeError:
            return ServingStatus.SERVICE_UNKNOWN
        if service not in SERVICES:
            return ServingStatus.SERVICE_UNKNOWN
        return ServingStatus.NOT_SERVING if self._stopped else ServingStatus.SERVING

    def _check(self, call: Call) -> None:
        status = self._status(call.content)
        if status is ServingStatus.SERVICE_UNKNOWN:
            call.refuse(Status.NOT_FOUND, "unknown service")
        else:
            call.answer(_response(status))

    def _watch(self, call: Call) -> None:
        with self._lock:
            status = self._status(call.content)
            crowded = len(self._watches) >= self._most
            if not crowded and status is not ServingStatus.NOT_SERVING:
                self._watches[call] = _Watch(known=status is ServingStatus.SERVING)
        if status is ServingStatus.NOT_SERVING:
            call.answer(_response(status))
        elif crowded:
            call.refuse(Status.RESOURCE_EXHAUSTED, f"The server has reached its limit of {self._most} health watches.")
        else:
            call.on_cancel = lambda: self._leave(call)
            call.send(_response(status), sent=lambda: self._sent(call))

    def _sent(self, call: Call) -> None:
        with self._lock:
            watch = self._watches.get(call)
            if watch is not None:
                watch.ready = True
        if call.cancelled:
            self._leave(call)
        elif self._stopped:
            self._end(call)

    def _leave(self, call: Call) -> None:
        with self._lock:
            watch = self._watches.pop(call, None)
        if watch is not None:
            call.refuse(Status.CANCELLED, "")

    def _end(self, call: Call) -> None:
        with self._lock:
            watch = self._watches.pop(call, None)
        if watch is not None and watch.known:
            call.answer(_response(ServingStatus.NOT_SERVING))
        elif watch is not None:
            call.end()


def _response(status: ServingStatus) -> bytes:
    return bytes(HealthCheckResponse(status=int(status)).SerializeToString())
