"""An API on an HTTP port: it takes a method, a path and a body, and returns a status and a body.

`Api` does for each API what does not depend on it: it counts and times requests, and it turns errors into answers.
"""

import abc
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from sealserve.serving.http.json_text import quote
from sealserve.serving.http.memory import Loan
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import RequestError, Status, short
from sealserve.serving.wire.allowance import Allowance

logger = logging.getLogger(__name__)

HTTP_STATUS: Final = {
    Status.OK: 200,
    Status.CANCELLED: 499,
    Status.UNKNOWN: 500,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.DATA_LOSS: 500,
    Status.UNAUTHENTICATED: 401,
}
"""Source: tensorflow/serving, ``model_servers/http_server.cc`` (``ToHTTPStatusCode``)."""

Headers = Iterable[tuple[str, str]]
"""Names and values of headers. A name can be repeated."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request.

    Args:
        status: The HTTP status.
        body: JSON, or empty, or of the content type in ``headers``.
        closes: Whether to close the connection afterwards, because an unread body may follow the request.
        headers: Further headers.
    """

    status: int
    body: bytes
    closes: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a request contains besides its method and its path.

    Args:
        body: The body, without its content encoding.
        headers: The headers.
        deadline: The latest time for the answer, on the clock of `time.monotonic`; None for no deadline.
        loan: The memory that the request borrows, including its body.
    """

    body: bytes | bytearray
    headers: Headers
    deadline: float | None
    loan: Loan


@dataclass(frozen=True, slots=True)
class Resource:
    """What a method and a path select.

    Args:
        answer: Returns the answer to a request with this content. It may raise a `RequestError`.
        model: The name of the model, for the metrics; empty if the resource belongs to the server.
        operation: The name of the operation, for the metrics.
    """

    answer: Callable[[Content], Answer]
    model: str = ""
    operation: str = ""


class Api(abc.ABC):
    """Resources of an HTTP port.

    Args:
        metrics: Counts and times the requests.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    @staticmethod
    @abc.abstractmethod
    def knows(path: str) -> bool:
        """Return whether ``path`` (with its query) belongs to this API."""

    @abc.abstractmethod
    def find(self, method: str, path: str) -> Resource:
        """Return the resource that a method and a path (with its query) select.

        Raises:
            RequestError: There is none.
        """

    def answer(
        self,
        method: str,
        path: str,
        body: bytes | bytearray,
        deadline: float | None,
        loan: Loan | None = None,
        *,
        headers: Headers = (),
    ) -> Answer:
        """Return the answer to a request.

        Args:
            method: GET, POST, ...
            path: The path as it was sent, including its query.
            body: The body, without its content encoding. A `bytearray` is emptied when it has been read.
            deadline: The latest time for the answer, on the clock of `time.monotonic`; None for no deadline.
            loan: The memory that the request borrows, including its body; None for no limit.
            headers: The headers of the request.
        """
        started = time.monotonic()
        model, operation, status = "", "", Status.OK
        try:
            resource = self.find(method, path)
            model, operation = resource.model, resource.operation
            borrowed = loan if loan is not None else Loan(Allowance(sys.maxsize))
            answer = resource.answer(Content(body=body, headers=headers, deadline=deadline, loan=borrowed))
        except RequestError as error:
            status, answer = error.status, refusal(error.status, error.message)
        except Exception:
            logger.exception("a request failed with an unexpected error")
            status, answer = Status.INTERNAL, refusal(Status.INTERNAL, "internal")
        self.metrics.request(model, status)
        if status is Status.OK:
            self.metrics.request_latency(model, operation, "REST", time.monotonic() - started)
        return answer


def refusal(status: Status, message: str) -> Answer:
    """Return the answer to a request that failed."""
    return Answer(HTTP_STATUS[status], error_body(short(message)))


def error_body(message: str) -> bytes:
    """Return an error as JSON, in the form of TensorFlow Serving."""
    return f'{{\n    "error": {quote(message)}\n}}'.encode("utf-8", "backslashreplace")


def decoded(text: str) -> str:
    """Return a percent-encoded part of a path as text."""
    return unquote_to_bytes(text).decode("utf-8", "replace")
