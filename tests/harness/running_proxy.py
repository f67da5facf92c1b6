"""The verifying proxy on a free port, and a load balancer for TCP connections in front of several replicas."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.attested_service import AttestedService
from tests.harness.event_loops import LoopThread

from sealserve.attested.user_policy import UserPolicy
from sealserve.client.credentials import parse_endpoint
from sealserve.client.noted_connection import EndpointTls
from sealserve.proxy.listener import listen, parse_listen
from sealserve.proxy.proxy import Limits, Proxy
from sealserve.proxy.upstream import Service
from sealserve.proxy.verifier import ReplicaVerifier


@dataclass(slots=True)
class Clock:
    """A clock that a test moves."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


class RunningProxy:
    """A proxy in a thread. Use it in a ``with`` statement.

    Args:
        policy: The user's policy.
        tls: The TLS settings.
        grpc: Address of gRPC.
        rest: Address of REST, or `None`.
        socket: The path of a Unix socket to listen on too.
        limits: The limits.
        clock: The user's clock.
    """

    def __init__(
        self,
        policy: UserPolicy,
        tls: EndpointTls,
        grpc: str,
        rest: str | None = None,
        *,
        socket: Path | None = None,
        limits: Limits | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        service = Service(
            grpc=parse_endpoint(grpc),
            rest=None if rest is None else parse_endpoint(rest),
            tls=tls,
            verifier=ReplicaVerifier(policy, clock=clock),
        )
        self.proxy = Proxy(service, limits=limits or Limits(), clock=clock)
        addresses = ["127.0.0.1:0", *([] if socket is None else [f"unix:{socket}"])]
        self._listeners = [listen(parse_listen(address)) for address in addresses]
        self.address = str(self._listeners[0].address)
        self.loop = LoopThread()
        self._end = contextlib.ExitStack()

    @classmethod
    def of(cls, service: AttestedService, *, rest: bool = False, **settings: object) -> Self:
        """Return a proxy in front of one replica."""
        return cls(
            service.policy, service.tls, service.address, service.rest_address if rest else None,
            **settings,  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def place(self) -> tuple[str, int]:
        """The address for a socket."""
        return "127.0.0.1", int(self.address.rpartition(":")[2])

    def sweep(self) -> None:
        """Run the periodic checks now."""
        self.loop.call(self.proxy.sweep)

    def __enter__(self) -> Self:
        for listener in self._listeners:
            self._end.callback(listener.close)
        self._end.enter_context(self.loop)
        ready = asyncio.Event()

        async def start() -> None:
            self._task = asyncio.create_task(self.proxy.run(self._listeners, ready=ready.set))
            await ready.wait()

        self.loop.run(start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end.close()


class Balancer:
    """Gives each TCP connection to the replica with the fewest connections, as NGINX's ``least_conn`` does.

    Args:
        ports: The ports of the replicas.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        self.opened: Counter[int] = Counter()
        """How many connections each port received in total."""
        self._open: Counter[int] = Counter()
        self.address = ""

    def choose(self) -> int:
        """Return the port for the next connection."""
        turn = sum(self.opened.values()) % len(self.ports)
        return min(self.ports[turn:] + self.ports[:turn], key=lambda port: self._open[port])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self.choose()
        self._open[port] += 1
        self.opened[port] += 1
        try:
            with contextlib.suppress(OSError):
                there, to = await asyncio.open_connection("127.0.0.1", port)
                copies = [asyncio.create_task(_copy(reader, to)), asyncio.create_task(_copy(there, writer))]
                await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
                for copy in copies:
                    copy.cancel()
                await asyncio.gather(*copies, return_exceptions=True)
                to.transport.abort()
        finally:
            self._open[port] -= 1
            writer.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Run the balancer in a thread."""
        with LoopThread() as loop:
            server = loop.run(asyncio.start_server(self._serve, "127.0.0.1", 0))
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self
            loop.call(server.close)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(65_536):
            writer.write(part)
            await writer.drain()
