import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from sealserve.serving.health import SERVICES, Health, HealthCheckRequest, HealthCheckResponse, ServingStatus

Scenario = Callable[[grpc.aio.Channel, Health], Awaitable[None]]


def serve(scenario: Scenario) -> None:
    async def run() -> None:
        health = Health()
        server = grpc.aio.server(handlers=[health])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await scenario(channel, health)
        finally:
            await server.stop(None)

    asyncio.run(run())


def check(channel: grpc.aio.Channel, service: str) -> Any:
    call = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return call(HealthCheckRequest(service=service))


def raw(channel: grpc.aio.Channel, method: str, content: bytes) -> Any:
    call: Any = channel.unary_unary(f"/grpc.health.v1.Health/{method}")
    return call(content)


def watch(channel: grpc.aio.Channel, service: str) -> Any:
    call = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return call(HealthCheckRequest(service=service))


def test_the_messages_have_the_official_encoding() -> None:
    assert HealthCheckRequest(service="a").SerializeToString() == b"\x0a\x01a"
    assert HealthCheckResponse(status=2).SerializeToString() == b"\x08\x02"
    assert HealthCheckResponse.DESCRIPTOR.full_name == "grpc.health.v1.HealthCheckResponse"


def test_it_serves_until_it_is_stopped() -> None:
    async def scenario(channel: grpc.aio.Channel, health: Health) -> None:
        for service in sorted(SERVICES):
            assert (await check(channel, service)).status == ServingStatus.SERVING
        health.stop()
        assert (await check(channel, "")).status == ServingStatus.NOT_SERVING

    serve(scenario)


def test_an_unknown_service_is_not_found() -> None:
    async def scenario(channel: grpc.aio.Channel, _health: Health) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(channel, "nonsense")
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "unknown service")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(channel, "Check", b"\xff")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(channel, "Nonsense", b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    serve(scenario)


def test_a_watch_sees_the_end_and_ends_with_it() -> None:
    async def scenario(channel: grpc.aio.Channel, health: Health) -> None:
        known, unknown = watch(channel, "PredictionService"), watch(channel, "nonsense")
        known, unknown = aiter(known), aiter(unknown)
        assert (await anext(known)).status == ServingStatus.SERVING
        assert (await anext(unknown)).status == ServingStatus.SERVICE_UNKNOWN
        health.stop()
        assert [response.status async for response in known] == [ServingStatus.NOT_SERVING]
        assert [response.status async for response in unknown] == []
        late = watch(channel, "")
        assert [response.status async for response in late] == [ServingStatus.NOT_SERVING]

    serve(scenario)
