"""The protocol between the server and a gRPC transport, and the limits that every implementation enforces.

Two modules implement it: `completion_queue`, which is fast, and `public_server`, which needs only gRPC's public API.
`transports` chooses between them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import grpc

from sealserve.serving.request_errors import Status
from sealserve.serving.wire.allowance import Allowance

ChannelArgument = tuple[str, int | str]
Metadata = Sequence[tuple[str, str | bytes]]
"""Names and values of metadata. A name can be repeated. A value of bytes has a name that ends with ``-bin``."""
Handler = Callable[["Call"], None]
"""Answers a call whose message has arrived, now or later, from this thread or another."""
Stop = Callable[[Status, str], None]
"""Ends a call with a status and a message for the client."""
PeerFault = Callable[[Mapping[bytes, Sequence[bytes]]], str | None]
"""Returns why a client is not accepted, or None, for gRPC's authentication context of a call."""

KEEPALIVE: Final[tuple[ChannelArgument, ...]] = (
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""Clients may ping every five seconds. gRPC's own limit is one ping in five minutes, and in two hours without a call. A
client that pings every ten seconds, to keep a long request alive, would be disconnected with ``too_many_pings``. After
three pings that come too early, the connection still ends.

Source: grpc/grpc, ``src/core/ext/transport/chttp2/transport/ping_abuse_policy.cc``.
"""
CANCELLING: Final = 1.0
"""Maximum seconds to wait for cancelled calls at a stop. Calls that still run then are abandoned."""
NO_MESSAGE: Final = "The request does not contain a message."
NO_METHOD: Final = "The method does not exist."
NO_MEMORY: Final = "The server is busy: the memory for messages is full."


def too_many_calls(limit: int) -> str:
    """Return the message for a client whose call exceeds the limit."""
    return f"The server is busy: it has reached its limit of {limit} calls."


def ignore() -> None:
    """Do nothing: the default of callbacks."""


class Call(Protocol):
    """A call whose request has arrived. It must be answered or refused exactly once, even if it is cancelled."""

    content: bytes
    """The request's message."""
    deadline: float | None
    """The client's deadline on the clock of `time.monotonic`; None for no deadline."""
    metadata: Metadata
    """The metadata that the client sent with the request. gRPC limits its size."""
    cancelled: bool
    """Whether the client cancelled or disconnected."""
    on_cancel: Callable[[], None]
    """Called when the client cancels or disconnects."""

    def peer(self) -> bytes:
        """Return an identifier of the client: its certificate, or else the connection's address."""

    def answer(self, content: bytes, trailer: Metadata = ()) -> None:
        """Send the answer, and end the call.

        Args:
            content: The message.
            trailer: Trailing metadata, in addition to the metadata of every answer.
        """

    def refuse(self, status: Status, details: str, trailer: Metadata = ()) -> None:
        """End the call with an error. See `answer` for the trailing metadata."""

    def send(self, content: bytes, *, sent: Callable[[], None]) -> None:
        """Send one message of a stream; ``sent`` is called when the next one, or the end, may follow."""

    def receive_next(self, handler: Handler, stop: Stop) -> None:
        """Receive the next message of the client's stream. Call it when no message is being received or sent.

        The client must send the message within the time for the transfer of a message, and takes turns with others.

        Args:
            handler: Called when the message has arrived.
            stop: Called instead, with OK after the client's last message, or with the reason if no memory is left.
                The client may disconnect at any time, so `on_cancel` can be called too.
        """

    def end(self) -> None:
        """End a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """The settings of a gRPC server.

    Args:
        handlers: The handler of each method, by its path, such as ``/tensorflow.serving.PredictionService/Predict``.
        threads: Minimum number of threads that run handlers.
        calls: Maximum number of concurrent calls; further calls are refused.
        patience: Maximum seconds for receiving a message or sending an answer.
        allowance: The bytes that requests and answers may use.
        arguments: Arguments of the gRPC server; if a name is repeated, the last one counts.
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
    """Maximum number of open calls that neither run nor wait for a thread. Their message is still in transfer, or they
    are watches of the health service or streams of the reflection service."""
    longest_queue: ClassVar[int]
    """Maximum number of calls that may wait for a thread, whatever ``--max_queued_requests`` permits."""

    def __init__(self, settings: TransportSettings) -> None: ...

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Add an address before the start; return the port, or 0 if gRPC cannot listen there.

        Args:
            address: ``host:port``, or ``unix:path``.
            credentials: TLS; None for plaintext.
        """

    def start(self) -> None:
        """Start to serve.

        Raises:
            UnavailableError: The system does not allow the required number of threads.
        """

    def stop(self, grace: float) -> bool:
        """Stop accepting calls, send GOAWAY to the clients, and wait for open calls; return whether all have ended.

        gRPC cancels a call that arrives after this, until its client has read the GOAWAY. If no call may be lost, stop
        sending clients here first, and let connections end by their age: docs/decisions/0040.

        Args:
            grace: Seconds after which open calls are cancelled.
        """

    @property
    def busy(self) -> int:
        """The number of open calls."""

    def sweep(self) -> None:
        """Cancel calls whose message takes too long to transfer. Call it periodically."""
