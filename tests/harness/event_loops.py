"""An event loop in a thread, for tests whose clients block."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

_Result = TypeVar("_Result")
SECONDS = 60.0
"""Seconds after which something that should have happened is a failure; no test waits for it."""


class LoopThread:
    """An event loop that runs in a thread. Use it in a ``with`` statement."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def run(self, task: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine in the loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(task, self.loop).result(SECONDS)

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Call a function in the loop's thread."""

        async def call() -> _Result:
            return function()

        return self.run(call())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SECONDS)
        self.loop.close()
