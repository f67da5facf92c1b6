import asyncio
import threading

import pytest

from sealserve.serving.request_errors import Status
from sealserve.serving.workers import OverloadedError, Workers


def test_results_and_errors_come_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def scenario() -> None:
        workers = Workers("w", threads=1, queue=1)
        assert await workers.run(pow, 2, 5) == 32
        with pytest.raises(ValueError, match="no"):
            await workers.run(fail)
        assert workers.pending == 0
        workers.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_recovers() -> None:
    async def scenario() -> None:
        workers = Workers("w", threads=1, queue=1)
        gate = threading.Event()
        running = [asyncio.ensure_future(workers.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        assert workers.pending == 2
        with pytest.raises(OverloadedError, match="2 requests run or wait already") as caught:
            await workers.run(gate.wait)
        assert (caught.value.code, caught.value.status) == ("request.overloaded", Status.RESOURCE_EXHAUSTED)
        gate.set()
        assert await asyncio.gather(*running) == [True, True]
        assert await workers.run(pow, 2, 2) == 4
        workers.close()

    asyncio.run(scenario())


def test_what_is_cancelled_while_it_waits_is_never_called() -> None:
    called = threading.Event()

    async def scenario() -> None:
        workers = Workers("w", threads=1, queue=2)
        gate = threading.Event()
        first = asyncio.ensure_future(workers.run(gate.wait))
        second = asyncio.ensure_future(workers.run(called.set))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert workers.pending == 1
        gate.set()
        await first
        workers.close()

    asyncio.run(scenario())
    assert not called.is_set()
