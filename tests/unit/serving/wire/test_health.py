import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.harness import http2
from tests.harness.served import Served, served

from sealserve.serving.wire.health import SERVICES, Health, HealthCheckRequest, HealthCheckResponse, ServingStatus
from sealserve.serving.wire.transport import Transport

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


@pytest.fixture
def service() -> Health:
    return Health()


@pytest.fixture
def there(service: Health, transport: type[Transport]) -> Iterator[Served]:  # noqa: ARG001  # it is chosen
    with served(service.handlers) as there:
        yield there


def request(service: str) -> bytes:
    return bytes(HealthCheckRequest(service=service).SerializeToString())


def check(there: Served, service: str) -> int:
    return int(HealthCheckResponse.FromString(there.call(CHECK)(request(service))).status)


def watch(there: Served, service: str) -> Iterator[int]:
    call: Any = there.channel.unary_stream(WATCH)
    return (HealthCheckResponse.FromString(content).status for content in call(request(service)))


def refusal(there: Served, method: str, content: bytes) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        there.call(method)(content)
    return caught.value


def test_the_messages_have_the_official_encoding() -> None:
    assert HealthCheckRequest(service="a").SerializeToString() == b"\x0a\x01a"
    assert HealthCheckResponse(status=2).SerializeToString() == b"\x08\x02"
    assert HealthCheckResponse.DESCRIPTOR.full_name == "grpc.health.v1.HealthCheckResponse"


def test_it_serves_until_it_is_stopped(there: Served, service: Health) -> None:
    for name in sorted(SERVICES):
        assert check(there, name) == ServingStatus.SERVING
    service.stop()
    assert check(there, "") == ServingStatus.NOT_SERVING


def test_an_unknown_service_is_not_found(there: Served) -> None:
    error = refusal(there, CHECK, request("nonsense"))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "unknown service")
    assert refusal(there, CHECK, b"\xff").code() is grpc.StatusCode.NOT_FOUND
    assert refusal(there, "/grpc.health.v1.Health/Nonsense", b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_watch_sees_the_end_and_ends_with_it(there: Served, service: Health) -> None:
    known, unknown = watch(there, "PredictionService"), watch(there, "nonsense")
    assert next(known) == ServingStatus.SERVING
    assert next(unknown) == ServingStatus.SERVICE_UNKNOWN
    service.stop()
    assert list(known) == [ServingStatus.NOT_SERVING]
    assert list(unknown) == []
    assert list(watch(there, "")) == [ServingStatus.NOT_SERVING]


@pytest.fixture
def crowded(transport: type[Transport]) -> Iterator[Served]:  # noqa: ARG001  # it is chosen
    with served(Health(watches=1).handlers) as there:
        yield there


def test_watches_are_bounded_and_a_watcher_who_leaves_makes_room(crowded: Served) -> None:
    there = crowded
    call: Any = there.channel.unary_stream(WATCH)
    first = call(request(""))
    next(first)
    with pytest.raises(grpc.RpcError) as caught:
        next(watch(there, ""))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()
    for _ in range(10_000):
        try:
            assert next(watch(there, "")) == ServingStatus.SERVING
        except grpc.RpcError:
            continue
        return
    pytest.fail("the place of a watcher who left stays taken")


def test_a_watcher_who_does_not_read_is_disconnected(
    service: Health,
    transport: type[Transport],  # noqa: ARG001  # it is chosen
) -> None:
    """The raw peer grants no flow-control window, so the status cannot be sent."""
    with (
        served(service.handlers, patience=0.0) as there,
        socket.create_connection(("127.0.0.1", there.port)) as peer,
    ):
        peer.sendall(http2.hello(window=0) + http2.request(WATCH, request("")))
        while not there.transport.busy:
            pass
        while there.transport.busy:
            there.transport.sweep()


def test_a_watch_that_waits_is_not_in_transfer(
    service: Health,
    transport: type[Transport],  # noqa: ARG001  # it is chosen
) -> None:
    with served(service.handlers, patience=0.0) as there:
        known = watch(there, "")
        assert next(known) == ServingStatus.SERVING
        server: Any = there.transport
        while any(call.moving_since is not None for call in tuple(server._open)):  # its first message is in transfer
            pass
        there.transport.sweep()
        service.stop()
        assert list(known) == [ServingStatus.NOT_SERVING]
