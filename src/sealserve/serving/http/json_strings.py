"""Strings in JSON, as bytes. RapidJSON does not check the encoding of the bytes between the quotation marks.

Source: RapidJSON 1.1.0, ``reader.h`` (``ParseStringToStream``, ``ParseHex4``); abseil-cpp, ``strings/escaping.cc``
(``Base64UnescapeInternal``).
"""

import binascii
import json
import re
from typing import Final

from sealserve.serving.http.json_errors import syntax_error
from sealserve.serving.http.json_numbers import Text

_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*+')
_ESCAPED: Final = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})*+"')
"""A string that Python and RapidJSON parse identically, up to the closing mark: it contains no surrogates."""
_HEX: Final = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES: Final = {
    ord(letter): byte
    for letter, byte in zip('"\\/bfnrt', (b'"', b"\\", b"/", b"\b", b"\f", b"\n", b"\r", b"\t"), strict=True)
}
_QUOTE, _BACKSLASH, _UNICODE = b'"\\u'
_HIGH: Final = range(0xD800, 0xDC00)
_LOW: Final = range(0xDC00, 0xE000)

_SPACES: Final = b" \t\n\v\f\r"
_PADDING: Final = {0: 0, 2: 2, 3: 1}


def string(text: Text, start: int) -> tuple[bytes, int]:
    """Return the string whose opening mark is at ``start``, and its end.

    Raises:
        RequestError: `request.json-syntax`: The string has no end, an unknown escape, or half of a surrogate pair.
    """
    end = _plain_end(text, start + 1)
    if text[end : end + 1] == b'"':
        return bytes(text[start + 1 : end]), end + 1
    whole = _ESCAPED.match(text, start + 1)
    if whole is not None:
        read: str = json.loads(text[start : whole.end()].decode("utf-8", "surrogateescape"))
        return read.encode("utf-8", "surrogateescape"), whole.end()
    return _string(text, start + 1)


def _string(text: Text, start: int) -> tuple[bytes, int]:
    """Parse a string escape by escape."""
    found = bytearray()
    while True:
        end = _plain_end(text, start)
        found += text[start:end]
        byte = text[end] if end < len(text) else 0
        if byte == _QUOTE:
            return bytes(found), end + 1
        if not byte:
            raise syntax_error("Missing a closing quotation mark in string.", end)
        escape = text[end + 1] if byte == _BACKSLASH and end + 1 < len(text) else 0
        if escape == _UNICODE:
            code, start = _code_point(text, end)
            found += chr(code).encode("utf-8", "surrogatepass")
        elif escape in _ESCAPES:
            found += _ESCAPES[escape]
            start = end + 2
        else:  # also for a control character, which RapidJSON 1.1.0 reports with this message
            raise syntax_error("Invalid escape character in string.", end)


def _plain_end(text: Text, start: int) -> int:
    found = _PLAIN.match(text, start)
    return found.end() if found else start


def _code_point(text: Text, start: int) -> tuple[int, int]:
    """Return the code point of the escape at ``start``, and its end. A low surrogate may be alone."""
    code = _hex(text, start + 2, start)
    if code not in _HIGH:
        return code, start + 6
    low = _hex(text, start + 8, start) if text[start + 6 : start + 8] == b"\\u" else 0
    if low not in _LOW:
        raise syntax_error("The surrogate pair in string is invalid.", start)
    return 0x10000 + ((code - _HIGH.start) << 10) + (low - _LOW.start), start + 12


def _hex(text: Text, start: int, escape: int) -> int:
    found = _HEX.match(text, start)
    if found is None:
        raise syntax_error("Incorrect hex digit after \\u escape in string.", escape)
    return int(found.group(), 16)


def decode_base64(text: bytes) -> bytes | None:
    """Decode standard base64; return None if the text is not base64.

    White space is allowed anywhere. The padding, ``=`` or ``.``, may be omitted completely, but not partly.
    """
    try:  # the usual form, without a copy of the text
        if not len(text) % 4:
            return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        pass
    text = text.translate(None, _SPACES)
    data = text.rstrip(b"=.")
    padding = len(text) - len(data)
    expected = _PADDING.get(len(data) % 4)
    if expected is None or padding not in {0, expected}:
        return None
    try:
        return binascii.a2b_base64(data + b"=" * expected, strict_mode=True)
    except binascii.Error:
        return None
