"""Run a blocking function in a daemon thread, for which the end of the program does not wait."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """Return the result of a function that blocks.

    `asyncio.to_thread` would delay Ctrl-C until the function returns, because the event loop waits for its threads. If
    the waiting task is canceled, the thread continues, and its result is discarded.

    Args:
        function: The function.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def finish(result: _Result | None, error: BaseException | None) -> None:
        if future.done():  # the waiting task was canceled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only if it is the result

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  # it is raised in the waiting task
            failure = error
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=run, name="in-thread", daemon=True).start()
    return await future
