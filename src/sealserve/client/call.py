"""One remote call: what is sent, what comes back beside the reply, and what its failures mean."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from sealserve.client.channel import ServiceChannel
from sealserve.client.connection_fault import UnreachableError
from sealserve.client.credentials import printable
from sealserve.errors import InputError, SealserveError, UnavailableError

INSTANCE_HEADER = "x-sealserve-instance"
"""Trailing metadata by which sealserve's model server names its process: random, new at each start."""

Reply = TypeVar("Reply", bound=Message)

_CALLERS_FAULT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
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
    grpc.StatusCode.PERMISSION_DENIED: "Use a client certificate that the service accepts: --cert and --key.",
    grpc.StatusCode.UNAUTHENTICATED: "Use a client certificate that the service accepts: --cert and --key.",
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
        try:
            reply, call = stub.with_call(request, timeout=timeout)
        except grpc.RpcError as error:
            failure: Any = error  # it is a grpc.Call as well, which its types do not say
            details = printable(failure.details() or "no details").rstrip(".")
            raise _explained(failure.code(), details, channel, timeout) from error
        headers = {key: value for key, value in call.trailing_metadata() or () if key == INSTANCE_HEADER}
        instance = headers.get(INSTANCE_HEADER)
        return reply, None if instance is None else printable(str(instance), 64)


def _explained(status: grpc.StatusCode, details: str, channel: ServiceChannel, timeout: float) -> SealserveError:
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(
            f"No answer from {channel.endpoint} within {timeout:.3g} s.",
            hint="Give it more time, or fewer requests at once.",
        )
    if status is grpc.StatusCode.UNAVAILABLE:
        fault = channel.find_fault() if "failed to connect" in details else None
        return fault or UnreachableError(
            f"The service at {channel.endpoint} is not available: {details}.", hint="Try again, with a new connection."
        )
    if status is grpc.StatusCode.CANCELLED:  # not by us: a server that ends refuses so what it has not begun
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
