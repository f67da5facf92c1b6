"""Threads that do what the event loop must not: a fixed number of them, and a bounded queue in front."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sealserve.serving.request_errors import RequestError, Status

_P = ParamSpec("_P")
_T = TypeVar("_T")


class OverloadedError(RequestError):
    """As many requests wait as may wait."""

    code = "request.overloaded"
    status = Status.RESOURCE_EXHAUSTED


class Workers:
    """A pool of threads.

    Args:
        name: What the threads are called.
        threads: How many there are.
        queue: How many calls may wait for one.
    """

    def __init__(self, name: str, *, threads: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + queue
        self._pending = 0
        self._lock = threading.Lock()

    @property
    def pending(self) -> int:
        """How many calls wait or run."""
        return self._pending

    async def run(self, function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
        """Return ``function(*arguments, **options)``, called by one of the threads.

        Where the caller is cancelled first, the function is never called.

        Raises:
            OverloadedError: The queue is full.
        """
        with self._lock:
            if self._pending >= self._limit:
                raise OverloadedError(f"The server is busy: {self._limit} requests run or wait already.")
            self._pending += 1
        future = self._executor.submit(function, *arguments, **options)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Take no more calls, and forget those that wait."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _done(self, _future: Future[_T]) -> None:
        with self._lock:
            self._pending -= 1
