"""Counts the fields of a serialized protobuf message before it is parsed.

A message of a few bytes for each field becomes objects that are 50 times as large. The memory for messages is counted
by their bytes, so the number of such fields must be limited.

Source: protobuf.dev/programming-guides/encoding (wire types).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sealserve.serving.request_errors import RequestCode, RequestError

SMALL: Final = 64 * 1024
"""Messages up to this size in bytes are not counted, because their objects are small in any case."""
MOST_FIELDS: Final = 4096
"""Maximum number of fields of a message whose fields are counted, including unknown ones."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_CONTINUES: Final = 0x80


@dataclass(frozen=True, slots=True)
class Counted:
    """A kind of message whose fields are counted.

    Args:
        inner: The kinds of messages in it that are counted too, by the numbers of their fields.
    """

    inner: Mapping[int, "Counted"] = field(default_factory=dict)


def check_counts(content: bytes | memoryview, kind: Counted) -> None:
    """Check that a message has at most `MOST_FIELDS` fields, and also each message in it that is counted.

    Args:
        content: The serialized message.
        kind: Its kind.

    Raises:
        RequestError: `request.malformed`: There are more, or the message is malformed.
    """
    if len(content) > SMALL:
        _Counter().count(memoryview(content), kind)


class _Counter:
    """Counts the fields of one request, at all levels together."""

    def __init__(self) -> None:
        self._left = MOST_FIELDS

    def count(self, content: memoryview, kind: Counted) -> None:
        position = 0
        while position < len(content):
            self._left -= 1
            if self._left < 0:
                raise RequestCode.MALFORMED.error(f"The request has more than {MOST_FIELDS} fields.")
            tag, position = _varint(content, position)
            wire_type = tag & 7
            if wire_type == _VARINT:
                position = _varint(content, position)[1]
            elif wire_type == _BYTES:
                size, position = _varint(content, position)
                inner = kind.inner.get(tag >> 3)
                if inner is not None:
                    self.count(content[position : position + size], inner)
                position += size
            elif wire_type in _SIZES:
                position += _SIZES[wire_type]
            else:
                raise _malformed()
        if position != len(content):
            raise _malformed()


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    number = 0
    for index in range(10):
        if position + index >= len(content):
            break
        byte = content[position + index]
        number |= (byte & ~_CONTINUES) << 7 * index
        if byte < _CONTINUES:
            return number, position + index + 1
    raise _malformed()


def _malformed() -> RequestError:
    return RequestCode.MALFORMED.error("The request is not a valid message.")
