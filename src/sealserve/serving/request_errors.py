"""The errors of a single request, and the status that its sender gets over gRPC or HTTP."""

from enum import IntEnum
from typing import Final, Self

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


LONGEST_MESSAGE: Final = 1024
"""Maximum characters of an error message for a client, as in ``model_servers/grpc_status_util.cc``."""
LONGEST_NAME: Final = 4096
"""Maximum bytes of a name or an identifier in a request, so that errors and answers that repeat it stay small."""


class RequestError(SealserveError):
    """A request that cannot be answered. The message is sent to the client, and never repeats an input's values.

    If TensorFlow Serving has the same error, the message is TensorFlow Serving's.

    Args:
        message: See `SealserveError`.
        hint: See `SealserveError`.
        code: See `SealserveError`.
        status: The status that the sender gets. The default is the class's status.

    Attributes:
        retry_after: Seconds after which the sender may repeat the request; None for no statement.
    """

    code = "request"
    status: Status = Status.INVALID_ARGUMENT
    retry_after: float | None = None

    def __init__(
        self, message: str, *, hint: str | None = None, code: str | None = None, status: Status | None = None
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        if status is not None:
            self.status = status


class RequestCode(ErrorCode):
    """The codes of request errors. A member has a gRPC status instead of a family."""

    status: Status

    def __new__(cls, code: str, status: Status = Status.INVALID_ARGUMENT) -> Self:
        """Create a member from its code and its status."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.family = RequestError
        member.status = status
        return member

    def error(self, message: str, *, hint: str | None = None) -> RequestError:
        """Return a request error with the member's code and status, for raising it.

        Args:
            message: See `RequestError`.
            hint: See `RequestError`.
        """
        return RequestError(message, hint=hint, code=self.value, status=self.status)

    BATCH_INPUT = "request.batch-input"
    """The request cannot be combined with others into a batch."""
    BATCH_OUTPUT = "request.batch-output", Status.FAILED_PRECONDITION
    """The model's outputs cannot be split by request."""
    BATCH_PADDING = "request.batch-padding"
    """A tensor cannot be padded."""
    BATCH_QUEUE_FULL = "request.batch-queue-full", Status.UNAVAILABLE
    """The queue of waiting batches is full."""
    DEADLINE_EXCEEDED = "request.deadline-exceeded", Status.DEADLINE_EXCEEDED
    """The client's deadline passed while the request waited."""
    EVIDENCE_MALFORMED = "request.evidence-malformed"
    """The request for evidence is not in the required form, or its nonce does not have 32 bytes."""
    EVIDENCE_RATE = "request.evidence-rate", Status.RESOURCE_EXHAUSTED
    """There are too many requests for evidence. The answer states when to retry."""
    EXAMPLE_INPUT = "request.example-input"
    """The request does not contain examples."""
    EXAMPLE_OUTPUT = "request.example-output"
    """The model's output does not have the shape or type that the method requires."""
    EXAMPLE_SIGNATURE = "request.example-signature"
    """The signature does not accept examples, or is not of the kind that the method requires."""
    INFERENCE_METHOD = "request.inference-method", Status.UNIMPLEMENTED
    """A task of a MultiInference request names an unsupported method."""
    INFERENCE_TASKS = "request.inference-tasks"
    """The tasks of a MultiInference request are inconsistent."""
    INPUT_NAMES = "request.input-names"
    """Inputs are missing, or the request has inputs that the signature does not have."""
    INPUT_SHAPE = "request.input-shape"
    """An input has a shape that the signature does not accept."""
    INPUT_TENSOR = "request.input-tensor"
    """An input is not a valid tensor, or is too large."""
    INPUT_TYPE = "request.input-type"
    """An input's data type differs from the signature's."""
    JSON_SYNTAX = "request.json-syntax"
    """The body is not valid JSON."""
    MALFORMED = "request.malformed"
    """The bytes are not a valid message of the method's type."""
    METADATA_FIELD = "request.metadata-field"
    """The request does not name metadata, or names unsupported metadata."""
    MODEL_SPEC = "request.model-spec"
    """The request does not name a model, or names an unknown label."""
    OPEN_INFERENCE_FORM = "request.open-inference-form"
    """The request is not in the form that the Open Inference Protocol requires."""
    OPEN_INFERENCE_PARAMETER = "request.open-inference-parameter"
    """A parameter of the request is unsupported, or has the wrong type."""
    OPEN_INFERENCE_PATH = "request.open-inference-path", Status.NOT_FOUND
    """The Open Inference Protocol does not have this resource, or the resource does not support this HTTP method."""
    OUTPUT_FILTER = "request.output-filter"
    """The request names an output that does not exist, or names an output twice."""
    RECEIPT_FORM = "request.receipt-form"
    """The request asks for a receipt with another value than `1`, or its body has a content encoding."""
    RECEIPT_UNAVAILABLE = "request.receipt-unavailable", Status.FAILED_PRECONDITION
    """The request asks for a receipt, but the server is not attested, or the method has no receipts."""
    RELOAD_REFUSED = "request.reload-refused", Status.PERMISSION_DENIED
    """A client asked to change the models. Only operators can do this, at the admin address."""
    REST_PATH = "request.rest-path"
    """The resource does not exist, or does not support this HTTP method."""
    SERVABLE_NOT_FOUND = "request.servable-not-found", Status.NOT_FOUND
    """The model or the version is not available."""
    SIGNATURE_METHOD = "request.signature-method", Status.INTERNAL
    """The signature's method name is not a prediction method, and the server is configured to require one."""
    SIGNATURE_NOT_FOUND = "request.signature-not-found", Status.FAILED_PRECONDITION
    """The model does not have this signature, or the signature cannot be called."""
    TENSOR_SIZE = "request.tensor-size", Status.INTERNAL
    """A tensor's memory does not have the size that its shape and type require. Nothing was copied."""
    TENSOR_TYPE = "request.tensor-type", Status.FAILED_PRECONDITION
    """The model computed a tensor of a type that a message cannot contain."""
    UNIMPLEMENTED = "request.unimplemented", Status.UNIMPLEMENTED
    """TensorFlow Serving supports this method, but this server does not."""


def short(message: str) -> str:
    """Return an error message for a client, cut to `LONGEST_MESSAGE`."""
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}...TRUNCATED"
