"""What can be wrong with one request, and the status that its sender gets: gRPC's and, later, HTTP's."""

from enum import IntEnum
from typing import Self

from sealserve.errors import ErrorCode, SealserveError


class Status(IntEnum):
    """The canonical codes, which TensorFlow, gRPC and ``StatusProto`` share.

    Source: googleapis, ``google/rpc/code.proto``.
    """

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RequestError(SealserveError):
    """A request that cannot be answered. Its message goes to the sender; it never repeats an input's values.

    Where TensorFlow Serving has the same error, the message is TensorFlow Serving's.

    Args:
        message: As for every error.
        hint: As for every error.
        code: As for every error.
        status: The status that the sender gets. The default is the status of the class.
    """

    code = "request"
    status: Status = Status.INVALID_ARGUMENT

    def __init__(
        self, message: str, *, hint: str | None = None, code: str | None = None, status: Status | None = None
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        if status is not None:
            self.status = status


class MalformedRequestError(RequestError):
    """The bytes are no message of the method's type."""

    code = "request.malformed"


class ModelSpecError(RequestError):
    """The request does not say which model it means, or names a label that is not there."""

    code = "request.model-spec"


class DeadlineExceededError(RequestError):
    """The sender's deadline passed while the request waited."""

    code = "request.deadline-exceeded"
    status = Status.DEADLINE_EXCEEDED


class RequestCode(ErrorCode):
    """The codes of request errors: a member has a gRPC status in place of a family."""

    status: Status

    def __new__(cls, code: str, status: Status = Status.INVALID_ARGUMENT) -> Self:
        """Make a member of its code and its status."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.family = RequestError
        member.status = status
        return member

    def error(self, message: str, *, hint: str | None = None) -> RequestError:
        """Return a request error with the member's code and status, to raise it.

        Args:
            message: As for `RequestError`.
            hint: As for `RequestError`.
        """
        return RequestError(message, hint=hint, code=self.value, status=self.status)
