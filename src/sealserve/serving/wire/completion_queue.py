"""A gRPC server with a fixed number of threads that take events from one completion queue.

``grpc.server`` and ``grpc.aio.server`` pass each request between threads several times. Here the thread that takes a
request from the queue also answers it. Measured with half_plus_two: docs/decisions/0030-the-completion-queue.md.

A call has these steps, each of which is an event of the queue:

1. Its headers arrived (`_accept`).
2. Its message arrived (`QueueCall._received`). The method's handler is called on this thread.
3. The client read the answer, or will not read it (`QueueCall._finished`).
4. At any time: the client disconnected, or its deadline passed (`QueueCall._closed`). gRPC itself watches the deadline.

A client decides how much memory steps 1 to 3 use, so they are limited:

- The number of concurrent calls.
- The number of calls that may send their message. The other calls wait, and clients take turns. Of a waiting message,
  gRPC stores only a flow-control window.
- The total bytes of requests and answers.
- The time for receiving a message or sending an answer. This time is short while other calls wait, so that slow clients
  are disconnected first.

Source: grpc/grpc 1.85, ``include/grpc/grpc.h`` (``grpc_server_request_call``, ``grpc_call_start_batch``,
``grpc_completion_queue_next``, ``grpc_server_shutdown_and_notify``), through the module ``cygrpc`` of the package
grpcio. That module is private to grpcio. So `transports` uses this transport only with tested versions of grpcio, and
no other module of the server imports it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs leave it out

from sealserve.serving.request_errors import Status
from sealserve.serving.wire.senders import Senders
from sealserve.serving.wire.transport import (
    CANCELLING,
    NO_MEMORY,
    NO_MESSAGE,
    NO_METHOD,
    Handler,
    Metadata,
    Stop,
    TransportSettings,
    ignore,
    too_many_calls,
)

logger = logging.getLogger(__name__)

_NO_FLAGS: Final = 0
_NOTHING: Final[tuple[()]] = ()
_FOREVER: Final = float(2**62)
"""Seconds since 1970 from which a deadline means no deadline (gRPC uses 2**63 if the client set none)."""


class OperationRefusedError(RuntimeError):
    """gRPC refused an operation of a call, because the call has ended."""


class QueueCall:
    """A call, which must be answered or refused exactly once.

    Args:
        transport: The transport that received it.
        event: gRPC's event of its arrival.
        handler: Answers the call; None if the call will be refused.
    """

    __slots__ = (
        *("_call", "_ended", "_handler", "_lock", "_opened", "_sent", "_size", "_stop", "_transport"),
        *("__weakref__", "cancelled", "content", "deadline", "metadata", "moving_since", "on_cancel"),
    )

    def __init__(self, transport: "QueueTransport", event: Any, handler: Handler | None) -> None:
        self.content = b""
        """The request's message."""
        self.deadline: float | None = None
        """The client's deadline on the clock of `time.monotonic`; None for no deadline."""
        self.cancelled = False
        """Whether the client cancelled or disconnected."""
        self.on_cancel: Callable[[], None] = ignore
        """Called when the client cancels or disconnects."""
        self.moving_since: float | None = None
        """The time when the current message began to be transferred, on the clock of `time.monotonic`."""
        expiry = event.call_details.deadline
        if expiry < _FOREVER:
            self.deadline = time.monotonic() + expiry - time.time()
        self.metadata: Metadata = event.invocation_metadata
        """The metadata of the request."""
        self._transport = transport
        self._call = event.call
        self._handler = handler
        self._opened = False
        self._sent: Callable[[], None] = ignore
        self._stop: Stop | None = None  # only of a call that has received its first message and waits for another
        # A message of a stream can arrive while another thread ends the call. Its bytes are then not counted.
        self._lock = threading.Lock()
        self._ended = False
        self._size = 0

    def peer(self) -> bytes:
        """Return an identifier of the client: its certificate, or else the connection's address.

        Behind a load balancer, all addresses are the balancer's, but each connection has a different port.
        """
        certificate = cygrpc.auth_context(self._call).get(b"x509_pem_cert")
        return bytes(certificate[0] if certificate else self._call.peer())

    def watch(self) -> None:
        """Begin to watch whether the client disconnects (followed by step 4)."""
        self.moving_since = time.monotonic()
        self._start((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    def receive(self) -> None:
        """Begin to receive the message (followed by step 2)."""
        self.moving_since = time.monotonic()
        self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def answer(self, content: bytes, trailer: Metadata = ()) -> None:
        """Send the answer, and end the call."""
        self._hold(len(content))
        self._finish(Status.OK, "", cygrpc.SendMessageOperation(content, _NO_FLAGS), trailer=trailer)

    def refuse(self, status: Status, details: str, trailer: Metadata = ()) -> None:
        """End the call with an error."""
        self._finish(status, details, trailer=trailer)

    def send(self, content: bytes, *, sent: Callable[[], None]) -> None:
        """Send one message of a stream; ``sent`` is called when the next one, or the end, may follow."""
        self._hold(len(content))
        self._sent = sent
        self.moving_since = time.monotonic()
        self._start((*self._opening(), cygrpc.SendMessageOperation(content, _NO_FLAGS)), self._passed)

    def receive_next(self, handler: Handler, stop: Stop) -> None:
        """Receive the next message of the client's stream; see `sealserve.serving.wire.transport.Call`."""
        self.content = b""
        self.let_go()
        self._handler, self._stop = handler, stop
        self.moving_since = time.monotonic()
        if self._transport.senders.enter(self):
            self.receive()
        elif self.cancelled and self._transport.senders.withdraw(self):  # see `QueueTransport._admit`
            self.on_cancel()

    def end(self) -> None:
        """End a stream."""
        self._finish(Status.OK, "")

    def abort(self) -> None:
        """Cancel the call of a client that neither sends nor reads."""
        self._call.cancel(int(Status.DEADLINE_EXCEEDED), "The message took too long to transfer.")

    def _opening(self) -> tuple[Any, ...]:
        if self._opened:
            return _NOTHING
        self._opened = True
        return (cygrpc.SendInitialMetadataOperation(_NOTHING, _NO_FLAGS),)

    def _finish(self, status: Status, details: str, *message: Any, trailer: Metadata = ()) -> None:
        self.content = b""
        self.moving_since = time.monotonic()
        metadata = (*self._transport.trailer, *trailer) if trailer else self._transport.trailer
        end = cygrpc.SendStatusFromServerOperation(metadata, int(status), details.encode(), _NO_FLAGS)
        self._start((*self._opening(), *message, end), self._finished)

    def _start(self, operations: tuple[Any, ...], tag: Callable[[Any], None]) -> None:
        if self._call.start_server_batch(operations, tag):
            self._call.cancel(int(Status.INTERNAL), "internal")
            self._transport.forget(self)
            raise OperationRefusedError("gRPC refused an operation")

    def let_go(self) -> None:
        """Return the bytes that the call borrowed."""
        with self._lock:
            size, self._size = self._size, 0
        self._transport.allowance.give_back(size)

    def end_loan(self) -> None:
        """Return the bytes that the call borrowed. From now on, it borrows none."""
        with self._lock:
            self._ended = True
        self.let_go()

    def _borrow(self, size: int) -> bool:
        """Count the bytes of a message. Return whether there is memory for them."""
        with self._lock:
            if self._ended or not self._transport.allowance.take(size):
                return False
            self._size = size
            return True

    def _hold(self, size: int) -> None:
        """Count the answer's bytes instead of the request's."""
        with self._lock:
            if self._ended:
                return
            former, self._size = self._size, size
            self._transport.allowance.give_back(former)
            self._transport.allowance.take_anyway(size)

    def _received(self, event: Any) -> None:
        self.moving_since = None
        self._transport.received(self)
        if self._ended:
            return
        message = event.batch_operations[0].message()
        stop = self._stop or self.refuse
        if message is None and self._stop is not None:
            stop(Status.OK, "")
            return
        if message is None:  # no message was sent, it was too large, or the client disconnected
            self.refuse(Status.INTERNAL, NO_MESSAGE)
            return
        if not self._borrow(len(message)):
            if not self._ended:
                stop(Status.RESOURCE_EXHAUSTED, NO_MEMORY)
            return
        self.content = message
        if self._handler is not None:
            self._handler(self)

    def _closed(self, event: Any) -> None:
        if event.batch_operations[0].cancelled():
            self.cancelled = True
            if self._transport.senders.withdraw(self) and self._stop is None:
                self.refuse(Status.CANCELLED, "")
            else:
                self.on_cancel()

    def _passed(self, _event: Any) -> None:
        self.moving_since = None
        self._sent()

    def _finished(self, _event: Any) -> None:
        self.moving_since = None
        self.on_cancel = self._sent = ignore  # remove references to the call, so that it is freed immediately
        self._handler = self._stop = None
        self._transport.forget(self)


class QueueTransport:
    """A gRPC server.

    Args:
        settings: The transport's settings. ``threads`` threads take events and run handlers.
    """

    idle_calls: ClassVar[int] = 1024
    longest_queue: ClassVar[int] = 2**31  # a waiting call has no thread

    def __init__(self, settings: TransportSettings) -> None:
        self.trailer = tuple(settings.trailer)
        self.allowance = settings.allowance
        self.senders: Senders[QueueCall] = Senders(settings.patience, settings.allowance)
        self._handlers = {path.encode(): handler for path, handler in settings.handlers.items()}
        self._limit = settings.calls
        self._peer_fault = settings.peer_fault
        self._open: set[QueueCall] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._server_ended = False
        self._stopped = threading.Event()
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(settings.channel_arguments(), False)
        self._server.register_completion_queue(self._queue)
        self._threads = [
            threading.Thread(target=self._serve, name=f"grpc-{number}", daemon=True)
            for number in range(settings.threads)
        ]

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Add an address; return the port, or 0 if gRPC cannot listen there."""
        secret = () if credentials is None else (credentials._credentials,)  # type: ignore[attr-defined]  # noqa: SLF001  # as grpc.Server does
        return int(self._server.add_http2_port(address.encode(), *secret))

    def start(self) -> None:
        """Start to serve."""
        self._server.start()
        for _ in self._threads:
            self._server.request_call(self._queue, self._queue, self._accept)
        for thread in self._threads:
            thread.start()

    def stop(self, grace: float) -> bool:
        """Stop accepting calls, and wait ``grace`` seconds for open calls; return whether all have ended."""
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._server.shutdown(self._queue, self._shut_down)
        if not self._stopped.wait(grace):
            self._server.cancel_all_calls()
            if not self._stopped.wait(CANCELLING):
                return False
        for thread in self._threads:
            thread.join()
        return True

    @property
    def busy(self) -> int:
        """The number of open calls."""
        return len(self._open)

    def sweep(self) -> None:
        """Cancel calls whose message takes too long to transfer. Call it periodically."""
        self.senders.sweep(tuple(self._open))

    def received(self, call: QueueCall) -> None:
        """Let the next call send, because this call's message arrived or will not arrive."""
        successor = self.senders.received(call)
        if successor is not None:
            with contextlib.suppress(OperationRefusedError):  # it has already ended
                successor.receive()

    def forget(self, call: QueueCall) -> None:
        """Remove a call that has ended."""
        self._open.discard(call)
        call.end_loan()
        self.received(call)  # if the call may still send, the next call takes its turn
        self._end_if_idle()

    def _serve(self) -> None:
        while True:
            event = self._queue.poll()
            if event.completion_type == cygrpc.CompletionType.queue_shutdown:
                return
            try:
                event.tag(event)
            except OperationRefusedError:  # another thread has ended the call, for example because the client left
                logger.debug("a call ended before its handler")
            except Exception:
                logger.exception("handling a call failed")
            del event  # it would keep the call and its message until the next event

    def _accept(self, event: Any) -> None:
        if not event.success:  # the server stops
            return
        with self._lock:
            if not self._stopping:
                self._server.request_call(self._queue, self._queue, self._accept)
        handler = self._handlers.get(event.call_details.method)
        call = QueueCall(self, event, handler)
        crowded = len(self._open) >= self._limit
        self._open.add(call)
        fault = None if self._peer_fault is None else self._peer_fault(cygrpc.auth_context(event.call))
        if fault is not None:
            call.refuse(Status.UNAUTHENTICATED, fault)
        elif handler is None:
            call.refuse(Status.UNIMPLEMENTED, NO_METHOD)
        elif crowded:
            call.refuse(Status.RESOURCE_EXHAUSTED, too_many_calls(self._limit))
        else:
            self._admit(call)

    def _admit(self, call: QueueCall) -> None:
        """Let a call send its message, now or when its turn comes."""
        call.watch()
        if self.senders.enter(call):
            call.receive()
        elif call.cancelled and self.senders.withdraw(call):  # another thread handled its end before it began to wait
            call.refuse(Status.CANCELLED, "")

    def _shut_down(self, _event: Any) -> None:
        self._server_ended = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        """End the queue, and with it the threads, when no further operation can start."""
        if self._server_ended and not self._open:
            with self._lock:
                if not self._stopped.is_set():
                    self._queue.shutdown()
                    self._stopped.set()
