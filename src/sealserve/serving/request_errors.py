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

    BATCH_INPUT = "request.batch-input"
    """A request cannot be part of a batch."""
    BATCH_OUTPUT = "request.batch-output", Status.FAILED_PRECONDITION
    """The model's outputs cannot be told apart by request."""
    BATCH_PADDING = "request.batch-padding"
    """A tensor cannot be filled up."""
    BATCH_QUEUE_FULL = "request.batch-queue-full", Status.UNAVAILABLE
    """As many batches wait as may wait."""
    DEADLINE_EXCEEDED = "request.deadline-exceeded", Status.DEADLINE_EXCEEDED
    """The sender's deadline passed while the request waited."""
    EXAMPLE_INPUT = "request.example-input"
    """The request has no examples."""
    EXAMPLE_OUTPUT = "request.example-output"
    """What the model computed does not have the shape or the type that the method's answer needs."""
    EXAMPLE_SIGNATURE = "request.example-signature"
    """The signature is none for examples, or not of the kind that the method needs."""
    INFERENCE_METHOD = "request.inference-method", Status.UNIMPLEMENTED
    """A task of a MultiInference asks for a method that there is none of."""
    INFERENCE_TASKS = "request.inference-tasks"
    """The tasks of a MultiInference do not fit together."""
    INPUT_NAMES = "request.input-names"
    """Inputs are missing, or there are some that the signature does not have."""
    INPUT_SHAPE = "request.input-shape"
    """An input has a shape that the signature does not take."""
    INPUT_TENSOR = "request.input-tensor"
    """An input is no tensor, or one that is too large."""
    INPUT_TYPE = "request.input-type"
    """An input has another data type than the signature's."""
    JSON_SYNTAX = "request.json-syntax"
    """The body is not JSON."""
    MALFORMED = "request.malformed"
    """The bytes are no message of the method's type."""
    METADATA_FIELD = "request.metadata-field"
    """The request asks for no metadata, or for some that there is none of."""
    MODEL_SPEC = "request.model-spec"
    """The request does not say which model it means, or names a label that is not there."""
    OUTPUT_FILTER = "request.output-filter"
    """The request asks for an output that is not there, or twice for the same one."""
    RELOAD_REFUSED = "request.reload-refused", Status.PERMISSION_DENIED
    """Somebody asked for other models."""
    REST_PATH = "request.rest-path"
    """There is no such resource, or not for this HTTP method."""
    SERVABLE_NOT_FOUND = "request.servable-not-found", Status.NOT_FOUND
    """There is no such model, or not in that version."""
    SIGNATURE_METHOD = "request.signature-method", Status.INTERNAL
    """The signature is none for predictions, and the server insists on it."""
    SIGNATURE_NOT_FOUND = "request.signature-not-found", Status.FAILED_PRECONDITION
    """The model has no such signature, or one that cannot be called."""
    TENSOR_SIZE = "request.tensor-size", Status.INTERNAL
    """A tensor's memory does not have the size that its shape and its type need. Nothing was copied."""
    TENSOR_TYPE = "request.tensor-type", Status.FAILED_PRECONDITION
    """The model computed a tensor of a type that no message can carry."""
    UNIMPLEMENTED = "request.unimplemented", Status.UNIMPLEMENTED
    """TensorFlow Serving has this method, and this server does not."""
