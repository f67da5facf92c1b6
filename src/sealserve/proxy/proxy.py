"""The proxy: listeners, the limit on connections, and the end of connections whose verification expires."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sealserve.errors import SealserveError, VerificationError
from sealserve.log_line import fields
from sealserve.proxy.codes import ProxyCode
from sealserve.proxy.listener import Listener
from sealserve.proxy.relay import Relay
from sealserve.proxy.upstream import CHUNK, Service

_LOG: Final = logging.getLogger(__name__)
_SWEEP_SECONDS: Final = 15.0
_MOST_REFUSED: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits on clients.

    Args:
        connections: Maximum number of connections.
        idle_seconds: Seconds without a byte in either direction after which a connection is closed.
    """

    connections: int = 1024
    idle_seconds: float = 3600.0


class Proxy:
    """Serves clients until `run` is canceled.

    Args:
        service: The service.
        limits: The limits on clients.
        check_hosts: Whether HTTP/1.1 requests must name this machine or the service. Set it unless other machines may
            connect.
        clock: Returns the user's time, with a time zone.
    """

    def __init__(
        self,
        service: Service,
        *,
        limits: Limits,
        check_hosts: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._service = service
        self._limits = limits
        self._check_hosts = check_hosts
        self._clock = clock
        self._relays: dict[Relay, asyncio.Task[None]] = {}
        self._refused: set[asyncio.Task[None]] = set()
        self._refreshing: dict[Relay, asyncio.Task[None]] = {}

    @property
    def connections(self) -> int:
        """The number of clients."""
        return len(self._relays)

    async def run(self, listeners: Sequence[Listener], *, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until the task is canceled. Then close all connections.

        Args:
            listeners: The listening sockets. The caller closes them.
            ready: Called when clients can connect.
        """
        servers = [
            await asyncio.start_server(self._accept, sock=listener.stream, limit=CHUNK) for listener in listeners
        ]
        try:
            ready()
            while True:
                await asyncio.sleep(_SWEEP_SECONDS)
                self.sweep()
        finally:
            for server in servers:
                server.close()
            tasks = [*self._relays.values(), *self._refused, *self._refreshing.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def sweep(self) -> None:
        """Close idle connections and connections whose verification has expired. Request new evidence before."""
        now, moment = self._clock(), asyncio.get_running_loop().time()
        for relay in list(self._relays):
            if moment - relay.active > self._limits.idle_seconds:
                relay.close()
            elif relay.upstream is None:
                continue
            elif now >= relay.upstream.verification.until:
                _LOG.warning("closed a connection: the verification of its replica has expired")
                relay.close()
            elif relay.upstream.verification.needs_refresh(now) and relay not in self._refreshing:
                task = asyncio.create_task(self._refresh(relay))
                self._refreshing[relay] = task
                task.add_done_callback(lambda _, relay=relay: self._refreshing.pop(relay, None))  # type: ignore[misc]

    async def _refresh(self, relay: Relay) -> None:
        """Verify the replica of an open connection again."""
        if (upstream := relay.upstream) is None:
            return
        try:
            upstream.verification = await self._service.verifier.verify(
                upstream.certificate, upstream.source, newer_than=upstream.verification
            )
        except VerificationError as error:
            _LOG.warning("closed a connection: its replica is not verified any more: %s", error,
                         extra=fields(code=error.code))  # fmt: skip
            relay.close()
        except SealserveError as error:  # try again until the verification expires
            _LOG.warning("a replica was not verified again yet: %s", error, extra=fields(code=error.code))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = Relay(reader, writer, self._service, check_hosts=self._check_hosts)
        if len(self._relays) < self._limits.connections:
            self._relays[relay] = task = asyncio.create_task(_quietly(relay.run()))
            task.add_done_callback(lambda _: self._relays.pop(relay))
        elif len(self._refused) < _MOST_REFUSED:
            busy = ProxyCode.BUSY.error(
                f"The proxy has its maximum number of connections: {self._limits.connections}.",
                hint="Close unused connections, or start the proxy with a larger --connections.",
            )
            self._refused.add(task := asyncio.create_task(_quietly(relay.refuse(busy))))
            task.add_done_callback(self._refused.discard)
        else:
            relay.close()


async def _quietly(work: Coroutine[None, None, None]) -> None:
    """Log an unexpected exception of one client. The other clients are not affected."""
    try:
        await work
    except Exception:  # noqa: BLE001  # it is logged with its traceback
        _LOG.exception("the connection of a client failed unexpectedly")
