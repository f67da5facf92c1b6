"""One remote call: what is sent, what comes back beside the reply, and what its failures mean."""

import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from sealserve.client.channel import ServiceChannel
from sealserve.client.connection_fault import UnreachableError
from sealserve.client.credentials import printable
from sealserve.errors import InputError, SealserveError, UnavailableError
from sealserve.serving_interface import INSTANCE_HEADER

Reply = TypeVar("Reply", bound=Message)

_ATTEMPTS = 5
_PAUSE = 0.02
"""Seconds before the first repetition; twice as long before each further one."""
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
    "Use a client certificate that the service accepts: --bundle, or --cert and --key. Ask the owner for a new one."
)
_ANY_HINT = "See what the message says, and change the request."
_REFUSAL_HINTS = {
    grpc.StatusCode.INVALID_ARGUMENT: "Compare the names, types and shapes of the inputs with the model's signature.",
    grpc.StatusCode.NOT_FOUND: "Check the name of the model, and its version or label.",
    grpc.StatusCode.FAILED_PRECONDITION: (
        "Check the name of the signature. If it is right, the model cannot run it as it was saved: ask its owner."
    ),
    grpc.StatusCode.OUT_OF_RANGE: "Check the values of the inputs: one is outside the range that the model takes.",
    grpc.StatusCode.UNIMPLEMENTED: (
        "Check the address: the server there does not have this method, or the model an operation that this needs."
    ),
    grpc.StatusCode.PERMISSION_DENIED: _CERTIFICATE_HINT,
    grpc.StatusCode.UNAUTHENTICATED: _CERTIFICATE_HINT,
}
_FAILURE_HINTS = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Send fewer requests at once, or smaller ones.",
    grpc.StatusCode.ABORTED: "Check the shapes of the inputs, and send the request again.",
}


class DeadlineError(UnavailableError):
    """The service did not answer in time."""

    code = "client.deadline"


class RequestRefusedError(InputError):
    """The service refused a request: a model it does not serve, an input that does not fit."""

    code = "client.refused"


class ServiceFailedError(UnavailableError):
    """The service failed on a request that may be right."""

    code = "client.service-failed"


INPUT_REFUSED = (RequestRefusedError, ServiceFailedError)
"""What the service can answer to an input that does not fit the model."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Reply]):
    """A remote method.

    Args:
        path: ``/package.Service/Method``.
        reply_type: The message that it returns.
    """

    path: str
    reply_type: type[Reply]

    def call(self, channel: ServiceChannel, request: Message, timeout: float) -> tuple[Reply, str | None]:
        """Call the method, and return its reply and the instance that answered, where the server tells.

        A call that the server never began is sent again, a few times within ``timeout``: on a new connection, and so,
        behind a load balancer, to a replica that does not drain. A call that the server may have begun is not.

        Args:
            channel: The connection to use.
            request: What to send.
            timeout: Seconds to wait.

        Raises:
            DeadlineError: No reply within ``timeout``.
            UnreachableError: No connection, or it was lost, or the server is not ready.
            TlsError: A new connection was needed, and TLS refused it.
            RequestRefusedError: The server's status says that the request is wrong.
            ServiceFailedError: The server's status says anything else.
        """
        stub: grpc.UnaryUnaryMultiCallable[Message, Reply] = channel.grpc.unary_unary(
            self.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self.reply_type.FromString,
        )
        deadline = time.monotonic() + timeout
        for attempt in range(1, _ATTEMPTS + 1):
            left = max(deadline - time.monotonic(), 0.0)
            try:
                # A repeated call waits for the new connection, where the first one would fail at once.
                reply, call = stub.with_call(request, timeout=left, wait_for_ready=attempt > 1)
            except grpc.RpcError as failure:
                error: Any = failure  # it is a grpc.Call as well, which its types do not say
                unanswered = attempt > 1 and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                fault = channel.find_fault() if _has_no_connection(error) or unanswered else None
                if attempt < _ATTEMPTS and fault is None and _was_never_begun(error):
                    time.sleep(min(_PAUSE * 2**attempt, max(deadline - time.monotonic(), 0.0)))
                    continue
                raise fault or _explained(error, channel, timeout) from failure
            headers = {key: value for key, value in call.trailing_metadata() or () if key == INSTANCE_HEADER}
            instance = headers.get(INSTANCE_HEADER)
            return reply, None if instance is None else printable(str(instance), 64)
        raise AssertionError("the last attempt returns or raises")


def _has_no_connection(error: Any) -> bool:
    """Whether gRPC had no connection to send the call over."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(_NO_CONNECTION)


def _was_never_begun(error: Any) -> bool:
    """Whether a failed call certainly never reached the server's code.

    Either there was no connection, or the server was shutting down when the call arrived: gRPC's core then answers with
    CANCELLED, its default text and no metadata, without the server's code. sealserve's model server adds metadata to
    each of its own answers, and gRPC ends calls that have begun with UNAVAILABLE ("Cancelling all calls"). A call that
    the server's GOAWAY excludes is sent again by gRPC itself.

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
            f"No answer from {channel.endpoint} within {timeout:.3g} s.",
            hint="Give it more time, or fewer requests at once.",
        )
    if status is grpc.StatusCode.UNAVAILABLE:
        return UnreachableError(
            f"The service at {channel.endpoint} is not available: {details}.", hint="Try again, with a new connection."
        )
    if _was_never_begun(error):
        return UnreachableError(
            f"The service at {channel.endpoint} ended before it began with the request.",
            hint="Try again, with a new connection.",
        )
    name = status.name
    if status in _CALLERS_FAULT:
        return RequestRefusedError(
            f"The service at {channel.endpoint} refused the request ({name}): {details}.",
            hint=_REFUSAL_HINTS.get(status, _ANY_HINT),
        )
    return ServiceFailedError(
        f"The service at {channel.endpoint} failed ({name}): {details}.",
        hint=_FAILURE_HINTS.get(status, "See the model server's log: `sealserve logs` on its machine."),
    )
