"""Reflection on both transports: what a client sees, and the limits of its streams."""

import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from tests.harness import http2
from tests.harness.served import Served, served

from sealserve.serving.wire import reflection as limits
from sealserve.serving.wire import transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.completion_queue import QueueTransport
from sealserve.serving.wire.health import HEALTH_FILE
from sealserve.serving.wire.reflection import Reflection
from sealserve.serving.wire.reflection_messages import VERSIONS, Version
from sealserve.serving.wire.schema import Schema
from sealserve.serving.wire.transport import Transport

V1 = VERSIONS[0]
MEMORY = 2**20


@pytest.fixture
def service() -> Reflection:
    return Reflection(Schema([HEALTH_FILE, *(version.file for version in VERSIONS)]), streams=8)


@pytest.fixture
def allowance() -> Allowance:
    return Allowance(MEMORY)


@pytest.fixture
def there(
    service: Reflection,
    allowance: Allowance,
    transport: type[Transport],  # noqa: ARG001  # it is chosen
) -> Iterator[Served]:
    with served({**service.handlers, "/s/Echo": lambda call: call.answer(call.content)}, allowance=allowance) as there:
        yield there
        while there.transport.busy:
            pass
    assert allowance.take(MEMORY)  # all memory was returned


class Stream:
    """A client's stream."""

    def __init__(self, channel: grpc.Channel, version: Version = V1) -> None:
        self._version = version
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call: Any = channel.stream_stream(version.path)
        self.answers = call(iter(self._requests.get, None))

    def send(self, **request: Any) -> None:
        self.send_bytes(self._version.request(**request).SerializeToString())

    def send_bytes(self, content: bytes) -> None:
        self._requests.put(content)

    def ask(self, **request: Any) -> Any:
        self.send(**request)
        return self._version.response.FromString(next(self.answers))

    def end(self) -> None:
        self._requests.put(None)

    def failure(self) -> tuple[grpc.StatusCode, str]:
        """Return the error with which the server ended the stream."""
        with pytest.raises(grpc.RpcError) as caught:
            next(self.answers)
        error: Any = caught.value
        self.end()
        return error.code(), error.details()


def files(answer: Any) -> list[str]:
    found = map(descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
    return [file.name for file in found]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.file.package)
def test_a_client_lists_services_and_reads_their_files(there: Served, version: Version) -> None:
    stream = Stream(there.channel, version)
    listed = stream.ask(host="h", list_services="*")
    assert (listed.valid_host, listed.original_request.list_services) == ("h", "*")
    assert [service.name for service in listed.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    for symbol in ("grpc.health.v1.Health", "grpc.health.v1.Health.Watch", "grpc.health.v1.HealthCheckRequest.service"):
        assert files(stream.ask(file_containing_symbol=symbol)) == ["grpc/health/v1/health.proto"]
    assert files(stream.ask(file_by_filename="grpc/health/v1/health.proto")) == ["grpc/health/v1/health.proto"]
    numbers = stream.ask(all_extension_numbers_of_type="grpc.health.v1.HealthCheckRequest")
    assert numbers.all_extension_numbers_response.base_type_name == "grpc.health.v1.HealthCheckRequest"
    assert not numbers.all_extension_numbers_response.extension_number
    stream.end()
    assert list(stream.answers) == []


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"file_by_filename": "/etc/passwd"}, 5),
        ({"file_by_filename": "google/protobuf/descriptor.proto"}, 5),
        ({"file_containing_symbol": "google.protobuf.FileDescriptorProto"}, 5),
        ({"file_containing_symbol": "sealserve.attested.v1.Evidence"}, 5),
        ({"file_containing_symbol": ""}, 5),
        ({"file_containing_symbol": "."}, 5),
        ({"all_extension_numbers_of_type": "nonsense"}, 5),
        ({"all_extension_numbers_of_type": "grpc.health.v1.Health"}, 5),
        ({"file_containing_extension": V1.request().file_containing_extension}, 5),
        ({}, 3),
    ],
)
def test_what_is_not_public_is_unknown_and_the_stream_goes_on(
    there: Served, request_fields: dict[str, Any], code: int
) -> None:
    import sealserve.attested.evidence_service_pb2  # noqa: F401, PLC0415  # in the process, and yet not in the schema

    stream = Stream(there.channel)
    assert stream.ask(**request_fields).error_response.error_code == code
    assert files(stream.ask(file_containing_symbol="grpc.health.v1.Health"))
    stream.end()


def test_a_message_that_is_not_a_request_ends_the_stream(there: Served) -> None:
    stream = Stream(there.channel)
    stream.send_bytes(b"\xff")
    assert stream.failure() == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "The request is not a valid ServerReflectionRequest message.",
    )


def test_a_large_request_ends_the_stream(there: Served) -> None:
    stream = Stream(there.channel)
    stream.ask(list_services="")
    stream.send(file_by_filename="x" * limits.LONGEST_REQUEST)
    assert stream.failure()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_requests_of_a_stream_are_limited(there: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_REQUESTS", 3)
    stream = Stream(there.channel)
    for _ in range(3):
        stream.ask(list_services="")
    stream.send(list_services="")
    assert stream.failure()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_later_messages_use_the_allowance_too(there: Served, allowance: Allowance) -> None:
    stream = Stream(there.channel)
    stream.ask(list_services="")
    assert allowance.take(MEMORY - 300)
    stream.send(file_by_filename="x" * 1000)
    assert stream.failure() == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "The server is busy: the memory for messages is full.",
    )
    allowance.give_back(MEMORY - 300)


def test_streams_of_a_client_are_limited_and_one_that_ends_makes_room(there: Served) -> None:
    streams = [Stream(there.channel) for _ in range(limits.STREAMS_OF_PEER)]
    for stream in streams:
        stream.ask(list_services="")
    crowded = Stream(there.channel)
    crowded.send(list_services="")
    code, details = crowded.failure()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details.startswith("The limit of reflection streams is reached: 8, or 4 of a client.")
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{there.port}", options) as other:  # another client is served
        stream = Stream(other)
        assert stream.ask(list_services="").list_services_response.service
        stream.end()
        assert list(stream.answers) == []
    streams[0].answers.cancel()
    streams[1].end()
    assert list(streams[1].answers) == []
    while there.transport.busy > 2:
        pass
    for stream in (Stream(there.channel), Stream(there.channel), streams[2], streams[3]):
        assert stream.ask(list_services="").list_services_response.service
        stream.end()


def test_all_streams_together_are_limited(there: Served) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(f"127.0.0.1:{there.port}", options) for _ in range(3)]
    streams = [Stream(channel) for channel in channels for _ in range(limits.STREAMS_OF_PEER)]
    refused = 0
    for stream in streams[:8]:
        stream.ask(list_services="")
    for stream in streams[8:]:
        stream.send(list_services="")
        refused += stream.failure()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused == 4
    for stream in streams[:8]:
        stream.end()
        assert list(stream.answers) == []
    for channel in channels:
        channel.close()


def test_a_client_that_is_silent_between_two_requests_is_disconnected(
    service: Reflection,
    transport: type[Transport],  # noqa: ARG001  # it is chosen
) -> None:
    with served(service.handlers, patience=0.0) as there:
        stream = Stream(there.channel)
        stream.ask(list_services="")
        ended = threading.Thread(target=stream.failure)
        ended.start()
        while ended.is_alive():
            there.transport.sweep()
        ended.join()
        while there.transport.busy:
            pass


def test_a_client_that_does_not_read_is_disconnected(
    service: Reflection,
    transport: type[Transport],  # noqa: ARG001  # it is chosen
) -> None:
    """The raw peer grants no flow-control window, so the response cannot be sent."""
    with (
        served(service.handlers, patience=0.0) as there,
        socket.create_connection(("127.0.0.1", there.port)) as peer,
    ):
        peer.sendall(http2.hello(window=0) + http2.request(V1.path, V1.request(list_services="*").SerializeToString()))
        while not there.transport.busy:
            pass
        while there.transport.busy:
            there.transport.sweep()


def test_a_client_that_disconnects_leaves_nothing(there: Served, service: Reflection) -> None:
    for _ in range(20):
        with grpc.insecure_channel(f"127.0.0.1:{there.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stream = Stream(channel)
            stream.ask(list_services="")
            stream.send(file_containing_symbol="grpc.health.v1.Health")
            stream.answers.cancel()
            stream.end()
    while there.transport.busy:
        pass
    assert not service._streams
    assert not service._of_peer


def test_streams_end_when_the_server_stops(there: Served, service: Reflection) -> None:
    stream = Stream(there.channel)
    stream.ask(list_services="")
    service.stop()
    code, details = stream.failure()
    fast = transports.choose() is QueueTransport
    if fast or code is not grpc.StatusCode.CANCELLED:  # the public API cannot set a status for a call that it cancels
        assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "The server is stopping.")
    late = Stream(there.channel)
    late.send(list_services="")
    assert late.failure()[0] is grpc.StatusCode.UNAVAILABLE


def test_idle_streams_delay_nobody(there: Served) -> None:
    streams = [Stream(there.channel) for _ in range(limits.STREAMS_OF_PEER)]
    for stream in streams:
        stream.ask(list_services="")
    assert there.call("/s/Echo")(b"x") == b"x"
    for stream in streams:
        stream.end()
