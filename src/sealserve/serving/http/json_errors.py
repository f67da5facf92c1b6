"""Errors in the JSON of a request."""

from typing import Final

from sealserve.serving.request_errors import RequestCode, RequestError, Status

HIDDEN_VALUE: Final = "JSON Value: <hidden>"
"""Replaces the JSON value that TensorFlow Serving's errors quote."""


class JsonFormError(RequestError):
    """The body is valid JSON, but does not have the form that the method requires."""

    code = "request.json-form"


class JsonTypeError(RequestError):
    """JSON cannot represent values of the tensor's type."""

    code = "request.json-type"
    status = Status.UNIMPLEMENTED


def syntax_error(text: str, offset: int) -> RequestError:
    """Return the error for the byte at ``offset``, with RapidJSON's message (``error/en.h``)."""
    return RequestCode.JSON_SYNTAX.error(f"JSON Parse error: {text} at offset: {offset}")
