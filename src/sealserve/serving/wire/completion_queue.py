"""gRPC's wire, served by a fixed number of threads that take events from one completion queue.

``grpc.server`` and ``grpc.aio.server`` hand each request from thread to thread several times; here the thread that
takes a request from the queue answers it. Measured with half_plus_two: docs/decisions/0030-the-completion-queue.md.

A call goes through these steps, each an event of the queue:
1. its headers arrived (`_accept`); 2. its message did (`Call._received`): the method's handler is called, on this
thread; 3. the answer was read by the sender, or nobody will (`Call._finished`). Beside them, 4. the sender went away,
or its deadline passed (`Call._closed`): gRPC watches the deadline itself.

Steps 1 to 3 cost memory that a peer decides about, so there are limits: how many calls there are at once, how many of
them may send their message (the others wait, the peers in turns, and gRPC keeps no more of theirs than a window), how
many bytes requests and answers take together, and how long a message may be on its way, in each direction. While others
wait, that is a moment: who sends slowly goes first.

Source: grpc/grpc 1.85, ``include/grpc/grpc.h`` (``grpc_server_request_call``, ``grpc_call_start_batch``,
``grpc_completion_queue_next``, ``grpc_server_shutdown_and_notify``), as the module ``cygrpc`` of the package grpcio
binds it. That module is private to grpcio: its version is pinned, and nothing else of the server knows it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs leave it out

from sealserve.serving.request_errors import Status
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.turns import Turns

logger = logging.getLogger(__name__)

ChannelArgument = tuple[str, int | str]
Handler = Callable[["Call"], None]
"""Answers a call whose message is there, now or later, from this thread or another."""

_NO_FLAGS: Final = 0
_NOTHING: Final[tuple[()]] = ()
_FOREVER: Final = float(2**62)
"""Seconds since 1970 from which on a deadline is none (gRPC gives 2**63 where the sender set none)."""


_KEEPALIVE: Final[tuple[ChannelArgument, ...]] = (
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""Clients may ping each five seconds. gRPC's own limit is one ping in five minutes, and in two hours without a call: a
client that pings each ten seconds to keep a long request alive would lose it to ``too_many_pings``. After three pings
that come earlier, the connection still ends.

Source: grpc/grpc, ``src/core/ext/transport/chttp2/transport/ping_abuse_policy.cc``.
"""
_SENDERS: Final = 64
"""So many calls may send their message at once."""
_MOMENT: Final = 5.0
"""Seconds that a message may be on its way while others wait for its place."""
_CANCELLING: Final = 1.0
"""Seconds that cancelled calls take at most: what still runs then is abandoned."""


def _ignore() -> None:
    pass


class Call:
    """One call, whose request is there. It is answered or refused exactly once.

    Args:
        transport: What it came over.
        event: gRPC's event of its arrival.
        handler: What answers it.
    """

    __slots__ = (
        *("_call", "_handler", "_opened", "_sent", "_size", "_transport"),
        *("__weakref__", "cancelled", "content", "deadline", "moving_since", "on_cancel"),
    )

    def __init__(self, transport: "Transport", event: Any, handler: Handler) -> None:
        self.content = b""
        """The request's message."""
        self.deadline: float | None = None
        """When the sender gives up, on the clock of `time.monotonic`; None for never."""
        self.cancelled = False
        """Whether the sender gave up or went away."""
        self.on_cancel: Callable[[], None] = _ignore
        """Called when it does."""
        self.moving_since: float | None = None
        """Since when a message of it is on its way, on the clock of `time.monotonic`."""
        expiry = event.call_details.deadline
        if expiry < _FOREVER:
            self.deadline = time.monotonic() + expiry - time.time()
        self._transport = transport
        self._call = event.call
        self._handler = handler
        self._opened = False
        self._sent: Callable[[], None] = _ignore
        self._size = 0

    def peer(self) -> bytes:
        """Return who sends the call: the client's certificate, or else the connection's address.

        Behind a load balancer, all addresses are the balancer's, but each connection has a port of its own.
        """
        certificate = cygrpc.auth_context(self._call).get(b"x509_pem_cert")
        return bytes(certificate[0] if certificate else self._call.peer())

    def watch(self) -> None:
        """Notice when the sender goes away (step 4 follows)."""
        self.moving_since = time.monotonic()
        self._start((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    def receive(self) -> None:
        """Take the message (step 2 follows)."""
        self.moving_since = time.monotonic()
        self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def answer(self, content: bytes) -> None:
        """Send the answer, and end the call."""
        self._hold(len(content))
        self._finish(Status.OK, "", cygrpc.SendMessageOperation(content, _NO_FLAGS))

    def refuse(self, status: Status, details: str) -> None:
        """End the call with an error."""
        self._finish(status, details)

    def send(self, content: bytes, *, sent: Callable[[], None]) -> None:
        """Send one message of a stream; ``sent`` is called when the next one, or the end, may follow."""
        self._sent = sent
        self._start((*self._opening(), cygrpc.SendMessageOperation(content, _NO_FLAGS)), self._passed)

    def end(self) -> None:
        """End a stream."""
        self._finish(Status.OK, "")

    def abort(self) -> None:
        """Give up on a peer that neither sends nor reads."""
        self._call.cancel(int(Status.DEADLINE_EXCEEDED), "The message was too long on its way.")

    def _opening(self) -> tuple[Any, ...]:
        if self._opened:
            return _NOTHING
        self._opened = True
        return (cygrpc.SendInitialMetadataOperation(_NOTHING, _NO_FLAGS),)

    def _finish(self, status: Status, details: str, *message: Any) -> None:
        self.content = b""
        self.moving_since = time.monotonic()
        end = cygrpc.SendStatusFromServerOperation(self._transport.trailer, int(status), details.encode(), _NO_FLAGS)
        self._start((*self._opening(), *message, end), self._finished)

    def _start(self, operations: tuple[Any, ...], tag: Callable[[Any], None]) -> None:
        if self._call.start_server_batch(operations, tag):
            self._call.cancel(int(Status.INTERNAL), "internal")
            self._transport.forget(self)
            raise RuntimeError("gRPC refused an operation")

    def let_go(self) -> None:
        """Give back what the call was lent."""
        self._transport.allowance.give_back(self._size)
        self._size = 0

    def _hold(self, size: int) -> None:
        """Count the answer, which is there, in place of the request."""
        allowance = self._transport.allowance
        allowance.give_back(self._size)
        allowance.take_anyway(size)
        self._size = size

    def _received(self, event: Any) -> None:
        self.moving_since = None
        self._transport.received(self)
        message = event.batch_operations[0].message()
        if message is None:  # none was sent, it was too large, or the sender went away
            self.refuse(Status.INTERNAL, "The request has no message.")
            return
        if not self._transport.allowance.take(len(message)):
            self.refuse(Status.RESOURCE_EXHAUSTED, "The server is busy: the messages of others take all its memory.")
            return
        self._size = len(message)
        self.content = message
        self._handler(self)

    def _closed(self, event: Any) -> None:
        if event.batch_operations[0].cancelled():
            self.cancelled = True
            if self._transport.withdraw(self):
                self.refuse(Status.CANCELLED, "")
            else:
                self.on_cancel()

    def _passed(self, _event: Any) -> None:
        self._sent()

    def _finished(self, _event: Any) -> None:
        self.moving_since = None
        self.on_cancel = _ignore  # it knows the call: without it, the call is freed at once
        self._transport.forget(self)


class Transport:
    """A gRPC server.

    Args:
        handlers: What answers each method, by its path, such as ``/tensorflow.serving.PredictionService/Predict``.
        threads: How many threads take events, and run handlers.
        calls: How many calls there may be at once; more are refused.
        patience: Seconds that a message may be on its way, in either direction.
        allowance: The bytes that requests and answers may take.
        arguments: Arguments of the gRPC server; of several with the same name, the last one counts.
        trailer: Trailing metadata of every answer.
        peer_fault: Returns why a client is not accepted, or None, for gRPC's authentication context of a call.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        threads: int,
        calls: int,
        patience: float,
        allowance: Allowance,
        arguments: Iterable[ChannelArgument] = (),
        trailer: Sequence[tuple[str, str]] = (),
        peer_fault: Callable[[dict[bytes, list[bytes]]], str | None] | None = None,
    ) -> None:
        self.trailer = tuple(trailer)
        self.allowance = allowance
        self._handlers = {path.encode(): handler for path, handler in handlers.items()}
        self._limit = calls
        self._patience = patience
        self._peer_fault = peer_fault
        self._open: set[Call] = set()
        self._senders: set[Call] = set()
        self._waiting: Turns[Call] = Turns()
        self._lock = threading.Lock()
        self._stopping = False
        self._server_ended = False
        self._stopped = threading.Event()
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(list((dict(_KEEPALIVE) | dict(arguments)).items()), False)
        self._server.register_completion_queue(self._queue)
        self._threads = [
            threading.Thread(target=self._serve, name=f"grpc-{number}", daemon=True) for number in range(threads)
        ]

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Add an address, before the start; return the port, or 0 where gRPC cannot listen there.

        Args:
            address: ``host:port``, or ``unix:path``.
            credentials: TLS; None for plaintext.
        """
        secret = () if credentials is None else (credentials._credentials,)  # type: ignore[attr-defined]  # noqa: SLF001  # as grpc.Server does
        return int(self._server.add_http2_port(address.encode(), *secret))

    def start(self) -> None:
        """Serve."""
        self._server.start()
        for _ in self._threads:
            self._server.request_call(self._queue, self._queue, self._accept)
        for thread in self._threads:
            thread.start()

    def stop(self, grace: float) -> bool:
        """Take no more calls, tell the peers (GOAWAY), and wait for those that are open; return whether all ended.

        gRPC cancels a call that arrives from now on until its sender has read the GOAWAY. Where none may be lost, stop
        sending here first, and let connections end by their age: docs/decisions/0040.

        Args:
            grace: Seconds after which open calls are cancelled.
        """
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._server.shutdown(self._queue, self._shut_down)
        if not self._stopped.wait(grace):
            self._server.cancel_all_calls()
            if not self._stopped.wait(_CANCELLING):
                return False
        for thread in self._threads:
            thread.join()
        return True

    @property
    def busy(self) -> int:
        """How many calls are open."""
        return len(self._open)

    def sweep(self) -> None:
        """Give up on calls whose message is on its way for too long. To be called from time to time."""
        with self._lock:
            waiting = frozenset(self._waiting)
        crowded = bool(waiting) or self.allowance.ran_out()
        patience = min(self._patience, _MOMENT) if crowded else self._patience
        now = time.monotonic()
        late = [
            call
            for call in tuple(self._open)
            if call.moving_since is not None
            and call.moving_since < now - (self._patience if call in waiting else patience)
        ]
        for call in late:
            call.abort()
        if late:
            logger.warning("gave up on %d calls whose message was on its way for %d s", len(late), patience)

    def received(self, call: Call) -> None:
        """Let the next call send, since this one's message came, or none will."""
        with self._lock:
            self._senders.discard(call)
            successor = self._waiting.next() if len(self._senders) < _SENDERS else None
            if successor is not None:
                self._senders.add(successor)
        if successor is not None:
            with contextlib.suppress(RuntimeError):  # it ended already
                successor.receive()

    def withdraw(self, call: Call) -> bool:
        """Take a call off the line of those who wait to send; return whether it was there."""
        with self._lock:
            return self._waiting.remove(call)

    def forget(self, call: Call) -> None:
        """Let go of a call that ended."""
        self._open.discard(call)
        self._senders.discard(call)
        call.let_go()
        self._end_if_idle()

    def _serve(self) -> None:
        while True:
            event = self._queue.poll()
            if event.completion_type == cygrpc.CompletionType.queue_shutdown:
                return
            try:
                event.tag(event)
            except Exception:
                logger.exception("a call was lost")
            del event  # it would keep the call, and its message, until the next one comes

    def _accept(self, event: Any) -> None:
        if not event.success:  # the server stops
            return
        with self._lock:
            if not self._stopping:
                self._server.request_call(self._queue, self._queue, self._accept)
        handler = self._handlers.get(event.call_details.method)
        call = Call(self, event, handler or _ignore_call)
        crowded = len(self._open) >= self._limit
        self._open.add(call)
        fault = None if self._peer_fault is None else self._peer_fault(cygrpc.auth_context(event.call))
        if fault is not None:
            call.refuse(Status.UNAUTHENTICATED, fault)
        elif handler is None:
            call.refuse(Status.UNIMPLEMENTED, "There is no such method.")
        elif crowded:
            call.refuse(Status.RESOURCE_EXHAUSTED, f"The server is busy: it has {self._limit} calls already.")
        else:
            self._admit(call)

    def _admit(self, call: Call) -> None:
        """Let a call send its message, now or when it is its turn."""
        call.watch()
        with self._lock:
            now = len(self._senders) < _SENDERS
            if now:
                self._senders.add(call)
            else:
                self._waiting.add(call.peer(), call)
        if now:
            call.receive()

    def _shut_down(self, _event: Any) -> None:
        self._server_ended = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        """End the queue, and so the threads, once no operation can be started any more."""
        if self._server_ended and not self._open:
            with self._lock:
                if not self._stopped.is_set():
                    self._queue.shutdown()
                    self._stopped.set()


def _ignore_call(_call: Call) -> None:
    pass
