"""The event loop of the proxy. It ends at the first signal, without a wait for a thread."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from functools import partial
from typing import Any

from sealserve.daemon_thread import in_thread
from sealserve.signal_pipe import SignalPipe


def run_until_signalled(work: Coroutine[Any, Any, None], signals: SignalPipe) -> None:
    """Run asynchronous work until it ends, or until a signal cancels it.

    A further signal does not interrupt the end of the loop. asyncio's signal handlers would end before the loop.

    Args:
        work: The `async` function that was called.
        signals: The signals.
    """
    signals.begin()
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(_canceled(work, signals))


async def _canceled(work: Coroutine[Any, Any, None], signals: SignalPipe) -> None:
    task = asyncio.ensure_future(work)

    def cancel() -> None:
        os.read(signals.descriptor, 1)
        task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_reader(signals.descriptor, cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        loop.remove_reader(signals.descriptor)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that resolves names with `in_thread`. asyncio's own threads delay the end by the whole look-up."""

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  # asyncio's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Return the addresses of a name. See `socket.getaddrinfo`."""
        return await in_thread(partial(socket.getaddrinfo, host, port, family, type, proto, flags))
