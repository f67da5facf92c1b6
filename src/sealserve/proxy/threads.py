"""Run a blocking function in a thread, without a wait for the thread when the program ends."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """Return the result of a function that blocks.

    `asyncio.to_thread` would delay Ctrl-C until the function returns, because the event loop waits for its threads.

    Args:
        function: A function that ends after some seconds, even if its peer is silent.
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

    threading.Thread(target=run, name="verification", daemon=True).start()
    return await future
