import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import Mock

import grpc
import grpc.aio
import pytest

from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.rpc import INSTANCE, Method, Methods, NotImplementedMethodError, Route, refusal
from sealserve.serving.workers import Workers

Call = Callable[..., Awaitable[bytes]]
Scenario = Callable[[Call], Awaitable[None]]


def serve(method: Method, scenario: Scenario, *, threads: int = 1, queue: int = 8) -> None:
    """Run ``scenario`` with a call of ``method`` over a real connection."""

    async def run() -> None:
        workers = Workers("test", threads=threads, queue=queue)
        server = grpc.aio.server(handlers=[Methods({"/s/Method": Route(method=method, workers=workers)})])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await scenario(channel.unary_unary("/s/Method"))
        finally:
            await server.stop(None)
            workers.close()

    asyncio.run(run())


class CanaryError(RequestError):
    code = "test.canary"
    status = Status.FAILED_PRECONDITION


def test_bytes_go_in_and_come_out() -> None:
    async def scenario(call: Call) -> None:
        assert await call(b"abc") == b"cba"

    serve(lambda content, _: content[::-1], scenario)


def test_each_answer_names_the_process_that_gave_it() -> None:
    async def scenario(call: Call) -> None:
        answer: Any = call(b"")
        await answer
        assert dict(await answer.trailing_metadata())["x-sealserve-instance"] == INSTANCE

    serve(lambda content, _: content, scenario)


def test_a_deadline_arrives_when_there_is_one() -> None:
    deadlines: list[float | None] = []

    def method(_content: bytes, deadline: float | None) -> bytes:
        deadlines.append(deadline)
        return b""

    async def scenario(call: Call) -> None:
        await call(b"")
        await call(b"", timeout=1000)

    serve(method, scenario)
    assert [deadline is None for deadline in deadlines] == [True, False]


def test_a_deadline_is_on_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def time_remaining(self) -> float:
            return 30.0

        def set_trailing_metadata(self, metadata: object) -> None:
            pass

    async def run() -> bytes:
        workers = Workers("test", threads=1, queue=1)
        try:
            methods = Methods({"/s/Method": Route(method=lambda _, deadline: str(deadline).encode(), workers=workers)})
            handler: Any = methods.service(Mock(method="/s/Method"))
            answer: bytes = await handler.unary_unary(b"", Context())
            return answer
        finally:
            workers.close()

    monkeypatch.setattr("sealserve.serving.rpc.time", Mock(monotonic=lambda: 5000.0))
    assert asyncio.run(run()) == b"5030.0"


def test_a_request_error_becomes_its_status() -> None:
    def method(content: bytes, _deadline: float | None) -> bytes:
        raise CanaryError("x" * len(content), hint="for the operator")

    async def scenario(call: Call) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"abc")
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "xxx")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"x" * 2000)
        assert caught.value.details() == "x" * 1024 + "...TRUNCATED"

    serve(method, scenario)


def test_what_is_unknown_is_internal_and_the_log_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def method(content: bytes, _deadline: float | None) -> bytes:
        raise ValueError(content.decode())

    async def scenario(call: Call) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"canary")
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal")

    with caplog.at_level(logging.ERROR, logger="sealserve"):
        serve(method, scenario)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
    assert "canary" not in record.getMessage()


def test_more_than_may_wait_is_refused() -> None:
    gate, started = threading.Event(), threading.Event()

    def method(_content: bytes, _deadline: float | None) -> bytes:
        started.set()
        gate.wait()
        return b"done"

    async def scenario(call: Call) -> None:
        first = asyncio.ensure_future(call(b""))
        await asyncio.to_thread(started.wait)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "The server is busy: 1 requests run or wait already."
        gate.set()
        assert await first == b"done"
        assert await call(b"") == b"done"

    serve(method, scenario, queue=0)


def test_a_refusal_gives_its_reason() -> None:
    async def scenario(call: Call) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "use Predict")

    serve(refusal("use Predict"), scenario)
    with pytest.raises(NotImplementedMethodError, match="use Predict") as caught:
        refusal("use Predict")(b"", None)
    assert caught.value.code == "request.unimplemented"


def test_a_method_that_is_not_there() -> None:
    assert Methods({}).service(_Details()) is None


class _Details(grpc.HandlerCallDetails):
    method = "/s/Nonsense"
    invocation_metadata = ()
