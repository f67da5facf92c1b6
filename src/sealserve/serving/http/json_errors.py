"""What can be wrong with the JSON of a request."""

from typing import Final

from sealserve.serving.request_errors import RequestCode, RequestError, Status

HIDDEN_VALUE: Final = "JSON Value: <hidden>"
"""What stands where TensorFlow Serving's errors quote a JSON value."""


class JsonFormError(RequestError):
    """The body is JSON, but not of the form that the method takes."""

    code = "request.json-form"


class JsonTypeError(RequestError):
    """There is no JSON for values of the tensor's type."""

    code = "request.json-type"
    status = Status.UNIMPLEMENTED


def syntax_error(text: str, offset: int) -> RequestError:
    """Return the error for the byte at ``offset``, with RapidJSON's text (``error/en.h``)."""
    return RequestCode.JSON_SYNTAX.error(f"JSON Parse error: {text} at offset: {offset}")
