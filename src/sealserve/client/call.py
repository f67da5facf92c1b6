"""One remote call: the request, the reply with its metadata, and the conversion of failures to errors."""

import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from sealserve.client.channel import ServiceChannel
from sealserve.client.connection_fault import UnreachableError
from sealserve.client.credentials import printable
from sealserve.errors import InputError, SealserveError, UnavailableError
from sealserve.serving_interface import INSTANCE_HEADER, RECEIPT_HEADER, RECEIPT_WANTED
from sealserve.tracing.trace_context import TRACEPARENT

Reply = TypeVar("Reply", bound=Message)

_ATTEMPTS = 5
_PAUSE = 0.02
"""Seconds before the first retry, doubled before each further retry."""
_RECONNECT_SECONDS = 3.0
"""How long a call without a connection waits until the service can be reached again, for example after a fail-over."""
_PROBE_PAUSE = 0.2
_NO_CONNECTION = "failed to connect to all addresses"
_CALLERS_FAULT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)


_CERTIFICATE_HINT = (
    "Use a client certificate that the service accepts: --bundle, or --cert and --key. Ask the owner of the service "
    "for a new certificate."
)
_ANY_HINT = "Change the request according to the message."
_REFUSAL_HINTS = {
    grpc.StatusCode.INVALID_ARGUMENT: "Compare the names, types and shapes of the inputs with the model's signature.",
    grpc.StatusCode.NOT_FOUND: "Check the name of the model, and its version or label.",
    grpc.StatusCode.FAILED_PRECONDITION: (
        "Check the name of the signature. If it is right, the saved model cannot run this signature: ask its owner."
    ),
    grpc.StatusCode.OUT_OF_RANGE: "Check the values of the inputs: a value is outside the range of the model.",
    grpc.StatusCode.UNIMPLEMENTED: (
        "Check the address: the server does not support this method, or the model needs an operation that it does not "
        "support."
    ),
    grpc.StatusCode.PERMISSION_DENIED: _CERTIFICATE_HINT,
    grpc.StatusCode.UNAUTHENTICATED: _CERTIFICATE_HINT,
}
_FAILURE_HINTS = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Send fewer requests at the same time, or smaller requests.",
    grpc.StatusCode.ABORTED: "Check the shapes of the inputs, and send the request again.",
}


class DeadlineError(UnavailableError):
    """The service did not answer in time."""

    code = "client.deadline"


class RequestRefusedError(InputError):
    """The service refused a request, for example because of an unknown model or an input of the wrong shape."""

    code = "client.refused"


class ServiceFailedError(UnavailableError):
    """The service failed to process a request. The request itself may be valid."""

    code = "client.service-failed"


INPUT_REFUSED = (RequestRefusedError, ServiceFailedError)
"""What the service can answer to an input that does not fit the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a call.

    Attributes:
        content: The message, as received.
        instance: Name of the server process, or None if the server does not report it.
        receipt: The receipt, or None if the server sent none.
    """

    content: bytes
    instance: str | None
    receipt: str | None


@dataclass(frozen=True, slots=True)
class Method(Generic[Reply]):
    """A remote method.

    Args:
        path: ``/package.Service/Method``.
        reply_type: The type of the reply message.
    """

    path: str
    reply_type: type[Reply]

    def call(self, channel: ServiceChannel, request: Message, timeout: float) -> Reply:
        """Call the method, and return its reply. See `exchange`.

        Args:
            channel: The connection to use.
            request: The request message.
            timeout: Seconds to wait, including retries.

        Raises:
            SealserveError: As `exchange` and `parse`.
        """
        return self.parse(self.exchange(channel, request.SerializeToString(), timeout), channel)

    def parse(self, answer: Answer, channel: ServiceChannel) -> Reply:
        """Return the message of an answer.

        Raises:
            ServiceFailedError: The answer is not a message of this type.
        """
        try:
            return self.reply_type.FromString(answer.content)
        except DecodeError as error:
            raise ServiceFailedError(
                f"The service at {channel.endpoint} failed: its answer is not a valid message.",
                hint="Check the address: another server may have answered.",
            ) from error

    def exchange(
        self,
        channel: ServiceChannel,
        request: bytes,
        timeout: float,
        *,
        receipt: bool = False,
        traceparent: str | None = None,
    ) -> Answer:
        """Send the bytes of a request message, and return the answer.

        A call that the server certainly never started is retried, up to 5 attempts within ``timeout``. A retry uses a
        new connection. Behind a load balancer, it therefore reaches a replica that is not draining. A call that the
        server may have started is not retried. If the service cannot be reached, the call waits up to 3 seconds for it.

        Args:
            channel: The connection to use.
            request: The request message.
            timeout: Seconds to wait, including retries.
            receipt: Whether to request a receipt.
            traceparent: The W3C trace context to send, or None.

        Raises:
            StepFailedError: A new connection was needed, and a replica fails the verification.
            DeadlineError: The server did not answer within ``timeout``.
            UnreachableError: The connection failed or was lost, or the server is not ready.
            TlsError: A new connection was needed, and TLS failed.
            RequestRefusedError: The server's status means that the request is wrong.
            ServiceFailedError: The server returned any other error status.
        """
        deadline = time.monotonic() + timeout
        metadata: tuple[tuple[str, str | bytes], ...] = (
            *([(RECEIPT_HEADER, RECEIPT_WANTED)] if receipt else []),
            *([] if traceparent is None else [(TRACEPARENT, traceparent)]),
        )
        for attempt in range(1, _ATTEMPTS + 1):
            left = max(deadline - time.monotonic(), 0.0)
            used = channel.current(timeout=min(left, _RECONNECT_SECONDS))
            stub: grpc.UnaryUnaryMultiCallable[bytes, bytes] = used.unary_unary(self.path)
            try:
                # A retry waits for the new connection. The first attempt fails immediately without a connection. A
                # verified channel never waits: gRPC would try a replica whose certificate is unknown again and again.
                waits = attempt > 1 and channel.attested is None
                content, call = stub.with_call(request, timeout=left, wait_for_ready=waits, metadata=metadata)
            except grpc.RpcError as failure:
                error: Any = failure  # it is also a grpc.Call, which the type annotations do not express
                unanswered = attempt > 1 and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                lost = _has_no_connection(error) or unanswered
                fault = _find_lasting_fault(channel, used, deadline) if lost else None
                if attempt < _ATTEMPTS and fault is None and _was_never_begun(error):
                    time.sleep(min(_PAUSE * 2**attempt, max(deadline - time.monotonic(), 0.0)))
                    continue
                raise fault or _explained(error, channel, timeout) from failure
            sent = {key: str(value) for key, value in call.trailing_metadata() or () if key in _READ}
            instance = sent.get(INSTANCE_HEADER)
            return Answer(
                content=content,
                instance=None if instance is None else printable(instance, 64),
                receipt=sent.get(RECEIPT_HEADER),
            )
        raise AssertionError("the last attempt returns or raises")


_READ = frozenset({INSTANCE_HEADER, RECEIPT_HEADER})


def _find_lasting_fault(channel: ServiceChannel, used: grpc.Channel, deadline: float) -> SealserveError | None:
    """Return the reason why new connections fail, or None if they work again within a few seconds.

    A failed TLS handshake or verification is returned immediately, because waiting does not help.
    """
    end = min(deadline, time.monotonic() + _RECONNECT_SECONDS)
    if channel.attested is not None:
        try:
            channel.attested.replace(used, timeout=max(end - time.monotonic(), 0.0))
        except SealserveError as failure:
            return failure
        return None
    while isinstance(fault := channel.find_fault(), UnreachableError) and time.monotonic() + _PROBE_PAUSE < end:
        time.sleep(_PROBE_PAUSE)
    return fault


def _has_no_connection(error: Any) -> bool:
    """Return whether gRPC could not send the call, because it did not have a connection."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(_NO_CONNECTION)


def _was_never_begun(error: Any) -> bool:
    """Return whether a failed call certainly never reached the server's code.

    This is the case without a connection, or if the server was shutting down when the call arrived. In the second case,
    gRPC's core answers with CANCELLED, its default text and no metadata. sealserve's model server adds metadata to each
    of its own answers. gRPC ends calls that have started with UNAVAILABLE ("Cancelling all calls"). A call that the
    server's GOAWAY excludes is retried by gRPC itself.

    Rarely, the core closes the connection before it has sent the first answer. The call then fails with UNAVAILABLE
    ("Socket closed (GOAWAY received ..."). This does not prove that the call has not begun, so it is not retried.

    Source: grpc/grpc 1.85, ``src/core/server/server.cc`` (``CallData::KillZombie``, ``Server::CancelAllCalls``).
    """
    if _has_no_connection(error):
        return True
    bare = not (error.initial_metadata() or error.trailing_metadata())
    return error.code() is grpc.StatusCode.CANCELLED and error.details() == "CANCELLED" and bare


def _explained(error: Any, channel: ServiceChannel, timeout: float) -> SealserveError:
    status, details = error.code(), printable(error.details() or "no details").rstrip(".")
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(
            f"The service at {channel.endpoint} did not answer within {timeout:.3g} s.",
            hint="Use a longer timeout, or send fewer requests at the same time.",
        )
    if status is grpc.StatusCode.UNAVAILABLE:
        return UnreachableError(
            f"The service at {channel.endpoint} is not available: {details}.", hint="Try again with a new connection."
        )
    if _was_never_begun(error):
        return UnreachableError(
            f"The service at {channel.endpoint} stopped before it started to process the request.",
            hint="Try again with a new connection.",
        )
    name = status.name
    if status in _CALLERS_FAULT:
        return RequestRefusedError(
            f"The service at {channel.endpoint} refused the request ({name}): {details}.",
            hint=_REFUSAL_HINTS.get(status, _ANY_HINT),
        )
    return ServiceFailedError(
        f"The service at {channel.endpoint} failed ({name}): {details}.",
        hint=_FAILURE_HINTS.get(status, "Read the model server's log: `sealserve logs` on its machine."),
    )
