"""A blocking function in a daemon thread: its result, its error, and an end that does not wait for it."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from sealserve.daemon_thread import in_thread


@pytest.fixture
def blocked() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Two events: the function has started, and it may end. It ends after the test."""
    started, may_end = threading.Event(), threading.Event()
    yield started, may_end
    may_end.set()


def test_the_result_comes_from_a_daemon_thread() -> None:
    async def work() -> threading.Thread:
        return await in_thread(threading.current_thread)

    thread = asyncio.run(work())
    assert thread.daemon
    assert thread is not threading.main_thread()


@pytest.mark.parametrize("error", [ValueError("fault"), SystemExit(3)])
def test_an_error_reaches_the_waiting_task(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def work() -> None:
        with pytest.raises(type(error)) as caught:
            await in_thread(fail)
        assert caught.value is error

    asyncio.run(work())


def test_a_canceled_task_does_not_wait(blocked: tuple[threading.Event, threading.Event]) -> None:
    started, may_end = blocked
    ended = threading.Event()

    def block() -> None:
        started.set()
        may_end.wait()
        ended.set()

    async def work() -> None:
        task = asyncio.ensure_future(in_thread(block))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()
        await asyncio.to_thread(ended.wait)
        await asyncio.sleep(0)  # the discarded result arrives

    asyncio.run(work())


def test_the_end_of_the_event_loop_does_not_wait(blocked: tuple[threading.Event, threading.Event]) -> None:
    started, may_end = blocked
    threads: list[threading.Thread] = []

    def block() -> None:
        threads.append(threading.current_thread())
        started.set()
        may_end.wait()

    async def work() -> None:
        waiting = asyncio.ensure_future(in_thread(block))
        await asyncio.to_thread(started.wait)
        del waiting  # `asyncio.run` cancels it

    asyncio.run(work())
    (thread,) = threads
    assert thread.is_alive()
    may_end.set()
    thread.join()  # the thread ends without an error, although its event loop is closed
