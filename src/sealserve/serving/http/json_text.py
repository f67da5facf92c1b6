"""JSON as text: a request's body becomes Python's values, and strings and numbers become what RapidJSON writes.

Source: tensorflow/serving, ``util/json_tensor.cc`` (``ParseJson``, ``WriteDecimal``); RapidJSON (``error/en.h``,
``writer.h``).
"""

import base64
import binascii
import json
import re
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sealserve.serving.request_errors import RequestError

SIGNATURE: Final = "signature_name"
HIDDEN_VALUE: Final = "JSON Value: <hidden>"
"""What stands where TensorFlow Serving's errors quote a JSON value."""

_BASE64: Final = "b64"


class JsonSyntaxError(RequestError):
    """The body is no JSON."""

    code = "request.json-syntax"


class JsonFormError(RequestError):
    """The body is JSON, but not of the form that the method takes."""

    code = "request.json-form"


_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()
_MESSAGES: Final = (
    ("Expecting value", "Invalid value."),
    ("Expecting property name", "Missing a name for object member."),
    ("Illegal trailing comma before end of object", "Missing a name for object member."),
    ("Illegal trailing comma before end of array", "Invalid value."),
    ("Expecting ':' delimiter", "Missing a colon after a name of object member."),
    ("Expecting ',' delimiter", "Missing a comma, or the end of an object or an array."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid \\uXXXX escape", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\escape", "Invalid escape character in string."),
    ("Invalid control character", "Invalid encoding in string."),
)
"""Python's words for what is wrong, and RapidJSON's (``rapidjson/error/en.h``)."""


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``. NaN, Infinity and -Infinity are numbers; what follows the object is ignored.

    Raises:
        JsonSyntaxError: It is no JSON.
        JsonFormError: It is no object.
    """
    try:
        text = body.decode("utf-8-sig")
        start = _SPACE.match(text)
        begin = start.end() if start else 0
        if begin == len(text):
            raise JsonSyntaxError("JSON Parse error: The document is empty")
        document, _ = _DECODER.raw_decode(text, begin)
    except UnicodeDecodeError as error:
        raise JsonSyntaxError(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from error
    except json.JSONDecodeError as error:
        known = next((ours for theirs, ours in _MESSAGES if error.msg.startswith(theirs)), "Unspecific syntax error.")
        offset = len(text[: error.pos].encode("utf-8", "surrogatepass"))
        raise JsonSyntaxError(f"JSON Parse error: {known} at offset: {offset}") from error
    except RecursionError as error:
        raise JsonSyntaxError("JSON Parse error: The document is nested too deeply.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise JsonSyntaxError("JSON Parse error: Number too big to be stored in double.") from error
    if not isinstance(document, dict):
        raise JsonFormError(f"{HIDDEN_VALUE} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """Return the signature that a request names, or nothing.

    Raises:
        JsonFormError: It is no string.
    """
    name = document.get(SIGNATURE, "")
    if not isinstance(name, str):
        raise JsonFormError(f"{HIDDEN_VALUE} not formatted correctly. 'signature_name' key must be a string value.")
    return name


def is_base64(value: Any) -> bool:
    """Whether a value stands for bytes: an object whose only key is ``b64``, with a string."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_BASE64), str)


def decode_base64(value: Mapping[str, str]) -> bytes:
    """Return the bytes that a value stands for.

    Raises:
        JsonFormError: It is no base64.
    """
    try:
        text = "".join(value[_BASE64].split()).rstrip("=.")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise JsonFormError("Unable to base64 decode") from error


def encode_text(value: str) -> bytes:
    """Return a string's bytes.

    Raises:
        JsonSyntaxError: It has half of a surrogate pair.
    """
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise JsonSyntaxError("JSON Parse error: The surrogate pair in string is invalid.") from error


def json_type(value: Any) -> str:
    """Return what JSON calls the type of a value."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, dict):
        return "Object"
    if isinstance(value, list):
        return "Array"
    return "String" if isinstance(value, str) else "Number"


def decimals(values: Sequence[float], *, single: bool) -> list[str]:
    """Return numbers as theirs writes them: six digits where they suffice, else as many as tell the number apart."""
    code, digits = ("f", 9) if single else ("d", 17)
    short = [f"{value:g}" for value in values]
    exact = array(code, map(float, short))
    found = []
    for value, text, again in zip(values, short, exact, strict=True):
        if value != value:  # noqa: PLR0124  # NaN
            found.append("NaN")
        elif text in {"inf", "-inf"}:
            found.append("Infinity" if value > 0 else "-Infinity")
        else:
            written = text if again == value else f"{value:.{digits}g}"
            found.append(written if "." in written or "e" in written else f"{written}.0")
    return found


_ESCAPES: Final = {
    **{code: f"\\u{code:04X}" for code in range(0x20)},
    **{
        ord(plain): escape
        for plain, escape in zip('"\\\b\f\n\r\t', ('\\"', r"\\", r"\b", r"\f", r"\n", r"\r", r"\t"), strict=True)
    },
}


def quote(text: str) -> str:
    """Return a string as JSON, as RapidJSON writes it: only what must be escaped is."""
    return f'"{text.translate(_ESCAPES)}"'
