"""A gRPC transport on the public `grpc.server`, for versions of grpcio with which the fast transport was not tested.

`grpc.server` uses a thread of a pool for each open call, from its first byte to its last. All threads start with the
server. So if the system does not allow this number of threads, the start fails, and no call fails later.

The steps of a call, on its thread:

1. Refuse clients, methods and calls that are not accepted.
2. Wait for the turn to send.
3. Receive the message.
4. Call the handler.
5. Wait for its answer, which may come from another thread, and send it.

Differences from `completion_queue`: docs/decisions/0068-a-transport-on-the-public-api.md.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import grpc

from sealserve.serving.codes import ServingCode
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

_REFUSING: Final = 8
"""Additional threads besides one for each call, so that calls beyond the limit are refused immediately."""
_QUEUED: Final = 64
"""Calls that may wait for such a thread. gRPC itself refuses more (RESOURCE_EXHAUSTED), so the queue cannot grow."""
_FOREVER: Final = 1e9
"""Seconds from which a deadline means no deadline (gRPC returns about 10**18 if the client set none)."""
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """The next step of a call's answer.

    Args:
        content: A message to send, or None.
        sent: Called when the message was sent; None if the call ends.
        following: Handles the next message of the client's stream; None if it is not time for it.
        status: The status with which the call ends.
        details: The message for the client.
        trailer: Trailing metadata, in addition to the metadata of every answer.
    """

    content: bytes | None = None
    sent: Callable[[], None] | None = None
    following: tuple[Handler, Stop] | None = None
    status: Status = Status.OK
    details: str = ""
    trailer: Metadata = ()


class PublicCall:
    """A call. Its thread runs `PublicTransport._serve`.

    Args:
        transport: The transport that received it.
        context: gRPC's context of the call.
    """

    def __init__(self, transport: "PublicTransport", context: grpc.ServicerContext) -> None:
        self.content = b""
        self.cancelled = False
        self.on_cancel: Callable[[], None] = ignore
        self.moving_since: float | None = None
        remaining = context.time_remaining()
        self.deadline = None if remaining is None or remaining > _FOREVER else time.monotonic() + remaining
        self.metadata: Metadata = context.invocation_metadata()
        self.turn = threading.Event()
        """Set when the call may send its message, or has ended before."""
        self.steps: queue.SimpleQueue[_Step] = queue.SimpleQueue()
        self.finished = False
        """Whether the handler has answered or refused."""
        self.awaits_client = False
        """Whether its thread waits for another message of the client's stream."""
        self._transport = transport
        self._context = context
        self._size = 0

    def peer(self) -> bytes:
        """Return an identifier of the client: its certificate, or else the connection's address."""
        certificate = self._context.auth_context().get("x509_pem_cert")
        return bytes(certificate[0]) if certificate else self._context.peer().encode()

    def answer(self, content: bytes, trailer: Metadata = ()) -> None:
        """Send the answer, and end the call."""
        self._hold(len(content))
        self._put(_Step(content=content, trailer=trailer))

    def refuse(self, status: Status, details: str, trailer: Metadata = ()) -> None:
        """End the call with an error."""
        self._put(_Step(status=status, details=details, trailer=trailer))

    def send(self, content: bytes, *, sent: Callable[[], None]) -> None:
        """Send one message of a stream; ``sent`` is called when the next one, or the end, may follow."""
        self._hold(len(content))
        self.moving_since = time.monotonic()
        self.steps.put(_Step(content=content, sent=sent))

    def receive_next(self, handler: Handler, stop: Stop) -> None:
        """Receive the next message of the client's stream; see `sealserve.serving.wire.transport.Call`."""
        self.content = b""
        self.let_go()
        self.turn.clear()
        self.steps.put(_Step(following=(handler, stop)))

    def end(self) -> None:
        """End a stream."""
        self._put(_Step())

    def abort(self) -> None:
        """Cancel the call of a client that neither sends nor reads. The public API always sends CANCELLED."""
        self._context.cancel()

    def take(self, content: bytes) -> bool:
        """Store the request if its bytes are within the allowance; return whether they are."""
        if not self._transport.allowance.take(len(content)):
            return False
        self._size = len(content)
        self.content = content
        return True

    def let_go(self) -> None:
        """Return the bytes that the call borrowed."""
        self._transport.allowance.give_back(self._size)
        self._size = 0

    def _hold(self, size: int) -> None:
        """Count the bytes of an answer, which is in memory in place of the request."""
        self._transport.allowance.take_anyway(size)
        self.let_go()
        self._size = size

    def _put(self, step: _Step) -> None:
        self.finished = True
        self.content = b""
        self.moving_since = time.monotonic()
        self.steps.put(step)
        if self.awaits_client:  # wake the thread; the public API has no other way, so the client gets CANCELLED
            self.turn.set()
            self._context.cancel()


class PublicTransport:
    """A gRPC server.

    Args:
        settings: The transport's settings. The transport has a thread for each call; ``settings.threads`` is included.
    """

    idle_calls: ClassVar[int] = 64
    longest_queue: ClassVar[int] = 256  # each waiting call has a thread

    def __init__(self, settings: TransportSettings) -> None:
        self.allowance = settings.allowance
        self.senders: Senders[PublicCall] = Senders(settings.patience, settings.allowance)
        self._handlers = settings.handlers
        self._trailer = tuple(settings.trailer)
        self._limit = settings.calls
        self._peer_fault = settings.peer_fault
        self._open: set[PublicCall] = set()
        self._changed = threading.Condition()
        self._pool = _Workers(settings.calls + _REFUSING)
        self._server = grpc.server(
            self._pool,
            [_Methods(self._serve)],
            options=settings.channel_arguments(),
            maximum_concurrent_rpcs=settings.calls + _REFUSING + _QUEUED,
        )

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Add an address; return the port, or 0 if gRPC cannot listen there."""
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError:
            return 0

    def start(self) -> None:
        """Start to serve.

        Raises:
            UnavailableError: `server.threads`: The system does not allow a thread for each call.
        """
        self._pool.start()
        self._server.start()

    def stop(self, grace: float) -> bool:
        """Stop accepting calls, and wait ``grace`` seconds for open calls; return whether all have ended."""
        end = time.monotonic() + grace + CANCELLING
        ended = self._server.stop(grace).wait(grace + CANCELLING)
        with self._changed:
            finished = self._changed.wait_for(lambda: not self._open, max(end - time.monotonic(), 0))
        if ended and finished:
            self._pool.shutdown()
        return ended and finished

    @property
    def busy(self) -> int:
        """The number of open calls."""
        return len(self._open)

    def sweep(self) -> None:
        """Cancel calls whose message takes too long to transfer. Call it periodically."""
        self.senders.sweep(tuple(self._open))

    def _serve(self, path: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Serve one call on this thread: yield its messages, and set its status."""
        call = PublicCall(self, context)
        context.set_trailing_metadata(self._trailer)
        with self._changed:
            crowded = len(self._open) >= self._limit
            self._open.add(call)
        try:
            # 1. Refuse clients, methods and calls that are not accepted.
            handler = self._handlers.get(path)
            fault = None if self._peer_fault is None else self._peer_fault(_properties(context))
            if fault is not None:
                call.refuse(Status.UNAUTHENTICATED, fault)
            elif handler is None:
                call.refuse(Status.UNIMPLEMENTED, NO_METHOD)
            elif crowded:
                call.refuse(Status.RESOURCE_EXHAUSTED, too_many_calls(self._limit))
            # From here on, the end of the call is handled regardless of its cause.
            elif context.add_callback(lambda: self._ended(call)):
                self._receive(call, requests, handler)  # 2 to 4
            else:
                return  # the client has already disconnected
            yield from self._send(call, requests, context)  # 5
        except Exception:  # gRPC would log the text of the exception, and send it to the client
            logger.exception("handling a call failed")
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("internal")
        finally:
            if not call.finished:  # gRPC ended a stream during the transfer of a message
                call.cancelled = True
                call.on_cancel()
            call.moving_since = None
            call.on_cancel = ignore  # remove the reference to the call, so that it is freed
            self.senders.forget(call)
            call.let_go()
            with self._changed:
                self._open.discard(call)
                self._changed.notify_all()

    def _receive(self, call: PublicCall, requests: Iterator[bytes], handler: Handler, stop: Stop | None = None) -> None:
        """Receive a message when it is the call's turn, and pass it to the handler.

        Args:
            call: The call.
            requests: The client's stream.
            handler: Gets the message.
            stop: Called if the client's stream has ended, or no memory is left; None for the first message.
        """
        fail = call.refuse if stop is None else stop
        # 2. Wait for the turn. The message stays with the client until then.
        call.moving_since = time.monotonic()
        if not self.senders.enter(call):
            if call.cancelled:  # its end was handled before it began to wait
                call.turn.set()
            call.turn.wait()
            if self.senders.withdraw(call):  # the client disconnected
                call.awaits_client = False
                fail(Status.CANCELLED, "")
                return
        # 3. Receive the message, and let the next call send.
        call.moving_since = time.monotonic()
        try:
            content = next(requests, None)
        except grpc.RpcError:  # the client disconnected, or the call was cancelled
            content = None
        call.moving_since, call.awaits_client = None, False
        successor = self.senders.received(call)
        if successor is not None:
            successor.turn.set()
        if content is None and stop is not None:
            stop(Status.OK, "")
        elif content is None:  # no message was sent, it was too large, or the client disconnected
            call.refuse(Status.INTERNAL, NO_MESSAGE)
        elif not call.take(content):
            fail(Status.RESOURCE_EXHAUSTED, NO_MEMORY)
        else:
            # 4. Let the handler answer, here or later from another thread.
            try:
                handler(call)
            except Exception:
                logger.exception("handling a call failed")

    def _send(self, call: PublicCall, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Yield the messages of the answer, and set the status with which the call ends.

        Between the messages of a stream, receive the client's next message when the handler asks for it.
        """
        while True:
            step = call.steps.get()
            if step.following is not None:
                call.awaits_client = True  # before the check, so that an end from another thread wakes this one
                if not call.finished:
                    self._receive(call, requests, *step.following)
                call.awaits_client = False
                continue
            if step.content is not None and not call.cancelled:
                yield step.content  # gRPC continues here when the message was sent
            if step.sent is None:
                context.set_code(_CODES[int(step.status)])
                context.set_details(step.details)
                if step.trailer:
                    context.set_trailing_metadata((*self._trailer, *step.trailer))
                return
            call.moving_since = None
            step.sent()

    def _ended(self, call: PublicCall) -> None:
        """Handle the end of a call. If its thread is still busy with it, the client ended the call."""
        if call in self._open:
            call.cancelled = True
            call.turn.set()
            call.on_cancel()


class _Workers(ThreadPoolExecutor):
    """A pool whose threads all start together. Unlike an executor's threads, they do not keep the process alive.

    Args:
        size: The number of threads.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._size = size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the threads.

        Raises:
            UnavailableError: `server.threads`: The system does not allow this number of threads.
        """
        for number in range(self._size):
            try:
                threading.Thread(target=self._work, name=f"grpc-{number}", daemon=True).start()
            except RuntimeError as error:
                self.shutdown()
                raise ServingCode.SERVER_THREADS.error(
                    f"The gRPC server cannot start its threads: expected {self._size}, got {number}: {error}.",
                    hint="Lower --max_queued_requests, or install a grpcio that the fast transport was tested with.",
                ) from error

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn`` on one of the threads."""
        future: Future[Any] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001  # the waiting code receives the error
                    future.set_exception(error)

        self._jobs.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  # it does not wait
        """End each thread when no job waits any more."""
        for _ in range(self._size):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it would keep the call until the next job


@dataclass(frozen=True, slots=True)
class _Methods(grpc.GenericRpcHandler):
    """Handler of all methods, including unknown ones, so that the server itself rejects unknown methods."""

    serve: Callable[[str, Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method

        def serve(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self.serve(path, requests, context)

        return grpc.stream_stream_rpc_method_handler(serve)


def _properties(context: grpc.ServicerContext) -> dict[bytes, Sequence[bytes]]:
    found: Mapping[str, Any] = context.auth_context()  # the stubs have one value for each name
    return {name.encode(): values for name, values in found.items()}
