"""What can be wrong with one request, and the status that its sender gets: gRPC's and, later, HTTP's."""

from enum import IntEnum
from typing import ClassVar

from sealserve.errors import SealserveError


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
    """

    code = "request"
    status: ClassVar[Status] = Status.INVALID_ARGUMENT


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
