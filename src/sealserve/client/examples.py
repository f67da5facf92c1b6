"""Serialize a ``tf.Example`` without TensorFlow: features by name, each a list of bytes, floats or integers.

Source: tensorflow/core/example/example.proto and feature.proto, TensorFlow 2.21.
"""

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Values: TypeAlias = Sequence[bytes] | Sequence[float] | Sequence[int]

_BYTES_LIST: Final = 1  # field numbers of Feature
_FLOAT_LIST: Final = 2
_INT64_LIST: Final = 3
_LENGTH_DELIMITED: Final = 2  # protobuf's wire type
_BYTE: Final = 0x7F


def serialize(features: Mapping[str, Values]) -> bytes:
    """Return a serialized ``tf.Example``.

    Args:
        features: The values of each feature. All values of a feature have the same type: `bytes`, `float`, or `int`.
    """
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _feature(values))) for name, values in features.items()
    )
    return _field(1, entries)


def from_json(value: Mapping[str, object]) -> bytes:
    """Return a serialized ``tf.Example`` from JSON, in the form of TensorFlow Serving's REST API.

    A feature is a number, a text, ``{"b64": "..."}`` for bytes, or a list of these.

    Raises:
        TypeError, ValueError: A feature has a value of another type, or values of several types.
    """
    return serialize({name: _values(name, item) for name, item in value.items()})


def bytes_from_json(value: object) -> bytes | None:
    """Return the bytes of ``{"b64": "..."}``, or None if ``value`` has another form.

    Raises:
        TypeError: The value of ``b64`` is not a text.
        ValueError: The text is not valid base64.
    """
    if not isinstance(value, dict) or set(value) != {"b64"}:
        return None
    if not isinstance(value["b64"], str):
        raise TypeError('the value of "b64" must be a text')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise ValueError(f'the text of "b64" is not valid base64: {error}') from error


def _values(name: str, item: object) -> Values:
    items = item if isinstance(item, list) else [item]
    if all(isinstance(value, str | dict) for value in items):
        return [_bytes(name, value) for value in items]
    numbers = [value for value in items if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(items):
        whole = [value for value in numbers if isinstance(value, int)]
        return whole if len(whole) == len(numbers) else [float(value) for value in numbers]
    raise ValueError(f'the feature {name!r} must contain numbers, texts or {{"b64": "..."}}, all of one type')


def _bytes(name: str, value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if (found := bytes_from_json(value)) is None:
        raise ValueError(f'the feature {name!r} must contain numbers, texts or {{"b64": "..."}}')
    return found


def _feature(values: Values) -> bytes:
    if not values:
        return b""
    if all(isinstance(value, bytes) for value in values):
        return _field(_BYTES_LIST, b"".join(_field(1, value) for value in values if isinstance(value, bytes)))
    numbers = [value for value in values if not isinstance(value, bytes)]
    if all(isinstance(value, int) for value in numbers):
        if not all(-(2**63) <= value < 2**63 for value in numbers):
            raise ValueError("an integer of a feature has more than 64 bits")
        return _field(_INT64_LIST, _field(1, b"".join(_varint(int(value) % 2**64) for value in numbers)))
    return _field(_FLOAT_LIST, _field(1, struct.pack(f"<{len(numbers)}f", *numbers)))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > _BYTE:
        content.append(value & _BYTE | 0x80)
        value >>= 7
    return bytes([*content, value])
