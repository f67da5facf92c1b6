"""The protocol between the server and gRPC's wire, and the limits that every implementation keeps.

Two modules implement it: `completion_queue`, the fast one, and `public_server`, which needs only gRPC's public API.
`transports` chooses between them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import grpc

from sealserve.serving.request_errors import Status
from sealserve.serving.wire.allowance import Allowance

ChannelArgument = tuple[str, int | str]
Handler = Callable[["Call"], None]
"""Answers a call whose message arrived, now or later, from this thread or another."""
PeerFault = Callable[[Mapping[bytes, Sequence[bytes]]], str | None]
"""Returns why a client is not accepted, or None, for gRPC's authentication context of a call."""

KEEPALIVE: Final[tuple[ChannelArgument, ...]] = (
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""Clients may ping each five seconds. gRPC's own limit is one ping in five minutes, and in two hours without a call: a
client that pings each ten seconds to keep a long request alive would lose it to ``too_many_pings``. After three pings
that come earlier, the connection still ends.

Source: grpc/grpc, ``src/core/ext/transport/chttp2/transport/ping_abuse_policy.cc``.
"""
CANCELLING: Final = 1.0
"""Seconds that cancelled calls take at most at a stop: calls that still run then are abandoned."""
NO_MESSAGE: Final = "The request has no message."
NO_METHOD: Final = "There is no such method."
NO_MEMORY: Final = "The server is busy: the messages of others take all its memory."


def too_many_calls(limit: int) -> str:
    """Return the text for a client whose call is one too many."""
    return f"The server is busy: it has {limit} calls already."


def ignore() -> None:
    """Do nothing: the default of callbacks."""


class Call(Protocol):
    """One call, whose request arrived. It is answered or refused exactly once, also if it is cancelled."""

    content: bytes
    """The request's message."""
    deadline: float | None
    """When the sender gives up, on the clock of `time.monotonic`; None for never."""
    cancelled: bool
    """Whether the sender gave up or went away."""
    on_cancel: Callable[[], None]
    """Called when the sender gives up or goes away."""

    def answer(self, content: bytes) -> None:
        """Send the answer, and end the call."""

    def refuse(self, status: Status, details: str) -> None:
        """End the call with an error."""

    def send(self, content: bytes, *, sent: Callable[[], None]) -> None:
        """Send one message of a stream; ``sent`` is called when the next one, or the end, may follow."""

    def end(self) -> None:
        """End a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """What a gRPC server is made with.

    Args:
        handlers: What answers each method, by its path, such as ``/tensorflow.serving.PredictionService/Predict``.
        threads: How many threads run handlers at least.
        calls: How many calls there may be at once; more are refused.
        patience: Seconds that a message may be on its way, in either direction.
        allowance: The bytes that requests and answers may take.
        arguments: Arguments of the gRPC server; of several with the same name, the last one counts.
        trailer: Trailing metadata of every answer.
        peer_fault: Returns why a client is not accepted, or None. None accepts every client.
    """

    handlers: Mapping[str, Handler]
    threads: int
    calls: int
    patience: float
    allowance: Allowance
    arguments: Iterable[ChannelArgument] = ()
    trailer: Sequence[tuple[str, str]] = ()
    peer_fault: PeerFault | None = None

    def channel_arguments(self) -> list[ChannelArgument]:
        """Return the arguments of the gRPC server, with the defaults for keepalive pings."""
        return list((dict(KEEPALIVE) | dict(self.arguments)).items())


class Transport(Protocol):
    """A gRPC server."""

    idle_calls: ClassVar[int]
    """How many calls may be open that neither run nor wait for a thread: calls whose message is still on its way, and
    watches of the health service."""

    def __init__(self, settings: TransportSettings) -> None: ...

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Add an address, before the start; return the port, or 0 where gRPC cannot listen there.

        Args:
            address: ``host:port``, or ``unix:path``.
            credentials: TLS; None for plaintext.
        """

    def start(self) -> None:
        """Serve.

        Raises:
            UnavailableError: The system does not allow the threads that this takes.
        """

    def stop(self, grace: float) -> bool:
        """Take no more calls, tell the peers (GOAWAY), and wait for those that are open; return whether all ended.

        gRPC cancels a call that arrives from now on until its sender has read the GOAWAY. Where none may be lost, stop
        sending here first, and let connections end by their age: docs/decisions/0040.

        Args:
            grace: Seconds after which open calls are cancelled.
        """

    @property
    def busy(self) -> int:
        """How many calls are open."""

    def sweep(self) -> None:
        """Give up on calls whose message is on its way for too long. To be called from time to time."""
