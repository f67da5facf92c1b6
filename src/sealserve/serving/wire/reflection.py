"""gRPC server reflection, with which tools such as grpcurl list the services and read their messages.

A client keeps a stream open and sends one request after another. So the number of streams is limited, in total and for
each client. The number and the size of requests in a stream are limited too. The time between two requests is the time
for the transfer of a message (`sealserve.serving.wire.senders`). A response only copies files that are already
serialized.

Source: grpc/grpc, ``doc/server-reflection.md``; grpc/grpc-proto, ``grpc/reflection/v1/reflection.proto``.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from google.protobuf.message import DecodeError

from sealserve.serving.request_errors import Status
from sealserve.serving.wire.reflection_messages import VERSIONS, Version
from sealserve.serving.wire.schema import Schema
from sealserve.serving.wire.transport import Call, Handler

STREAMS_OF_PEER: Final = 4
"""Maximum number of open streams of a client."""
MOST_REQUESTS: Final = 1000
"""Maximum number of requests in a stream. A client needs at most one for each file and symbol."""
LONGEST_REQUEST: Final = 4096
"""Maximum bytes of a request. The longest name in the schema has about 100."""
_STOPPING: Final = "The server is stopping."


class Reflection:
    """``ServerReflection`` of both versions of the protocol.

    Args:
        schema: The schema that clients see.
        streams: Maximum number of open streams.
    """

    def __init__(self, schema: Schema, *, streams: int) -> None:
        self.schema = schema
        self._most = streams
        self._lock = threading.Lock()
        self._stopped = False
        self._streams: set[_Stream] = set()
        self._of_peer: Counter[bytes] = Counter()
        self.handlers: Mapping[str, Handler] = {version.path: partial(self._open, version) for version in VERSIONS}

    def stop(self) -> None:
        """Refuse new streams, and end the open ones."""
        with self._lock:
            self._stopped = True
            ending = tuple(self._streams)
        for stream in ending:
            stream.stop(Status.UNAVAILABLE, _STOPPING)

    def leave(self, stream: "_Stream") -> None:
        """Free the place of a stream."""
        with self._lock:
            self._streams.discard(stream)
            self._of_peer[stream.peer] -= 1
            if not self._of_peer[stream.peer]:
                del self._of_peer[stream.peer]

    def _open(self, version: Version, call: Call) -> None:
        stream = _Stream(self, version, call)
        with self._lock:
            stopped = self._stopped
            crowded = len(self._streams) >= self._most or self._of_peer[stream.peer] >= STREAMS_OF_PEER
            if not stopped and not crowded:
                self._streams.add(stream)
                self._of_peer[stream.peer] += 1
        if stopped:
            call.refuse(Status.UNAVAILABLE, _STOPPING)
        elif crowded:
            call.refuse(
                Status.RESOURCE_EXHAUSTED,
                f"The limit of reflection streams is reached: {self._most}, or {STREAMS_OF_PEER} of a client.",
            )
        else:
            call.on_cancel = partial(stream.finish, Status.CANCELLED, "")
            stream.answer(call)


class _Stream:
    """A client's stream, which ends exactly once.

    Args:
        service: The service.
        version: The version of the protocol.
        call: The call.
    """

    def __init__(self, service: Reflection, version: Version, call: Call) -> None:
        self.peer = call.peer()
        self._service = service
        self._version = version
        self._call = call
        self._lock = threading.Lock()
        self._finished = False
        self._sending = False
        self._ending: tuple[Status, str] | None = None
        self._requests = 0
        self._sent: set[str] = set()

    def answer(self, call: Call) -> None:
        """Answer the request that has arrived."""
        self._requests += 1
        if self._requests > MOST_REQUESTS:
            self.finish(Status.RESOURCE_EXHAUSTED, f"A reflection stream has at most {MOST_REQUESTS} requests.")
            return
        if len(call.content) > LONGEST_REQUEST:
            self.finish(Status.INVALID_ARGUMENT, f"A reflection request has at most {LONGEST_REQUEST} bytes.")
            return
        try:
            request = self._version.request.FromString(call.content)
        except DecodeError:
            self.finish(Status.INVALID_ARGUMENT, "The request is not a valid ServerReflectionRequest message.")
            return
        response = self._version.response(valid_host=request.host, original_request=request)
        self._fill(response, request)
        with self._lock:  # so that nothing is sent after the end
            if not self._finished:
                self._sending = True
                call.send(bytes(response.SerializeToString()), sent=self._was_sent)

    def stop(self, status: Status, details: str) -> None:
        """End the stream, after the response that is being sent."""
        with self._lock:
            if self._sending:
                self._ending = (status, details)
                return
        self.finish(status, details)

    def finish(self, status: Status, details: str) -> None:
        """End the stream now."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
        self._service.leave(self)
        if status is Status.OK:
            self._call.end()
        else:
            self._call.refuse(status, details)

    def _was_sent(self) -> None:
        with self._lock:
            self._sending = False
            ending = self._ending
            finished = self._finished
        if ending is not None:
            self.finish(*ending)
        elif self._call.cancelled:
            self.finish(Status.CANCELLED, "")
        elif not finished:
            self._call.receive_next(self.answer, self.finish)

    def _fill(self, response: Any, request: Any) -> None:
        """Write the answer to a request into its response."""
        schema, kind = self._service.schema, request.WhichOneof("message_request")
        match kind:
            case "list_services":
                for name in schema.services:
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                self._add_files(response, schema.file_named(request.file_by_filename), "file")
            case "file_containing_symbol":
                self._add_files(response, schema.file_containing(request.file_containing_symbol), "symbol")
            case "all_extension_numbers_of_type" if schema.is_message(request.all_extension_numbers_of_type):
                response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            case "all_extension_numbers_of_type":
                _fail(response, Status.NOT_FOUND, "The message is unknown.")
            case "file_containing_extension":
                _fail(response, Status.NOT_FOUND, "The schema has no extensions.")
            case _:
                _fail(response, Status.INVALID_ARGUMENT, "The kind of the request is unknown.")

    def _add_files(self, response: Any, name: str | None, what: str) -> None:
        if name is None:
            _fail(response, Status.NOT_FOUND, f"The {what} is unknown.")
            return
        for imported, content in self._service.schema.serialized(name, self._sent):
            response.file_descriptor_response.file_descriptor_proto.append(content)
            self._sent.add(imported)


def _fail(response: Any, status: Status, message: str) -> None:
    response.error_response.error_code = int(status)
    response.error_response.error_message = message
