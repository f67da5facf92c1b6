"""Convert numpy arrays to ``TensorProto`` messages and back.

Arrays are sent as ``tensor_content``, a single copy of their bytes. Replies use ``tensor_content`` or the typed fields;
TensorFlow Serving prefers the typed fields. If a typed field has fewer values than the tensor, its last value repeats.

numpy does not have ``bfloat16``. An array of this type from ``ml_dtypes`` is sent unchanged (this module does not
import ``ml_dtypes``). In replies, it is converted to ``float32``, which can represent every ``bfloat16`` value.

Source: tensorflow/core/framework/tensor.proto and tensor.cc (``FromProtoField``), TensorFlow 2.21.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sealserve.client.codes import ClientCode
from sealserve.client.wire import types_pb2 as types
from sealserve.client.wire.tensor_pb2 import TensorProto
from sealserve.client.wire.tensor_shape_pb2 import TensorShapeProto
from sealserve.errors import InputError

Array = NDArray[Any]

MAX_BYTES = 2**31 - 1
"""Maximum size of a protobuf message in bytes. A reply with a larger tensor is rejected before memory is allocated."""
_MAX_RANK = 64  # numpy's limit (NPY_MAXDIMS)
_MAX_SHIFT = 63  # shift of the last of a varint's ten bytes


class TensorTypeError(InputError):
    """An array has an element type that TensorFlow Serving does not support."""

    code = "client.tensor-type"


# type: (numpy type in tensor_content, numpy type of the typed field's values, typed field)
_TYPES: dict[types.DataType, tuple[str, str, str]] = {
    types.DT_FLOAT: ("<f4", "f4", "float_val"),
    types.DT_DOUBLE: ("<f8", "f8", "double_val"),
    types.DT_INT32: ("<i4", "i4", "int_val"),
    types.DT_UINT8: ("u1", "i4", "int_val"),
    types.DT_INT16: ("<i2", "i4", "int_val"),
    types.DT_INT8: ("i1", "i4", "int_val"),
    types.DT_COMPLEX64: ("<c8", "f4", "scomplex_val"),
    types.DT_INT64: ("<i8", "i8", "int64_val"),
    types.DT_BOOL: ("?", "?", "bool_val"),
    types.DT_BFLOAT16: ("<u2", "i4", "half_val"),
    types.DT_UINT16: ("<u2", "i4", "int_val"),
    types.DT_COMPLEX128: ("<c16", "f8", "dcomplex_val"),
    types.DT_HALF: ("<f2", "i4", "half_val"),
    types.DT_UINT32: ("<u4", "u4", "uint32_val"),
    types.DT_UINT64: ("<u8", "u8", "uint64_val"),
}
_BY_NAME: dict[str, types.DataType] = {
    np.dtype(content).name: data_type for data_type, (content, _, _) in _TYPES.items() if data_type != types.DT_BFLOAT16
} | {"bfloat16": types.DT_BFLOAT16}


def to_proto(array: Array) -> TensorProto:
    """Convert an array to a tensor message.

    Args:
        array: An array of any shape. Elements are booleans, integers, floats, complex numbers or strings. Strings are
            ``bytes``, or ``str`` that is encoded as UTF-8.

    Raises:
        TensorTypeError: The elements have another type.
        InputError: `client.tensor-too-large`: The array is larger than a message can be.
    """
    array = np.asarray(array)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    if array.dtype.kind in "OSUT":
        return TensorProto(dtype=types.DT_STRING, tensor_shape=shape, string_val=_encoded_strings(array))
    data_type = _BY_NAME.get(array.dtype.name)
    if data_type is None:
        raise TensorTypeError(
            f"An array of {array.dtype} cannot be sent: TensorFlow Serving does not support this type.",
            hint=f"Convert the array to one of these types: {', '.join(_BY_NAME)}, or strings.",
        )
    if array.nbytes > MAX_BYTES:
        raise ClientCode.TENSOR_TOO_LARGE.error(
            f"An array of shape {array.shape} is too large: expected at most {MAX_BYTES} bytes, got {array.nbytes}.",
            hint="Send a smaller batch.",
        )
    if data_type != types.DT_BFLOAT16:  # numpy cannot change the byte order of this type
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return TensorProto(dtype=data_type, tensor_shape=shape, tensor_content=array.tobytes())


def zeros(data_type: str, shape: Sequence[int]) -> TensorProto:
    """Return a tensor of zeros as a short message: it has one value, which repeats.

    Args:
        data_type: The type's name, such as ``float32``.
        shape: The size of each dimension.

    Raises:
        TensorTypeError: The type is not a type of numbers.
    """
    known = _BY_NAME.get(data_type)
    if known is None:
        raise TensorTypeError(f"The type {data_type} is not a type of numbers.")
    tensor = TensorProto(dtype=known)
    tensor.tensor_shape.dim.extend(TensorShapeProto.Dim(size=size) for size in shape)
    field = _TYPES[known][2]
    getattr(tensor, field).extend([0] * (2 if data_type.startswith("complex") else 1))
    return tensor


def from_proto(tensor: TensorProto) -> Array:
    """Convert a tensor of a reply to a writable array. Strings become ``bytes`` objects.

    Raises:
        UnavailableError: `client.tensor-malformed`: The type is unknown, the shape is invalid, or the values do not
            match the shape.
    """
    shape = _shape(tensor)
    count = math.prod(shape)
    content_type, value_type, field = _TYPES.get(tensor.dtype, ("O", "O", "string_val"))
    if count * np.dtype(content_type).itemsize > MAX_BYTES:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply is too large: expected at most {MAX_BYTES} bytes, got the shape {shape}."
        )
    if tensor.dtype == types.DT_STRING:
        strings = _content_strings(tensor.tensor_content, count) if tensor.tensor_content else list(tensor.string_val)
        values = np.empty(len(strings), dtype=object)
        values[:] = strings
        return _filled(values, count, default=b"").reshape(shape)
    if tensor.dtype not in _TYPES:
        raise ClientCode.TENSOR_MALFORMED.error(f"A tensor in the reply has the unknown type {tensor.dtype}.")
    if tensor.tensor_content:
        return _from_content(tensor, content_type, count).reshape(shape)
    given = getattr(tensor, field)
    values = _narrowed(np.array(given, dtype=value_type), tensor.dtype, content_type)
    return _widened(_filled(values, count, default=0), tensor.dtype).reshape(shape)


def data_type_name(data_type: types.DataType) -> str:
    """Return numpy's name of a TensorFlow type, such as ``float32``; ``string``; or its number if it is unknown."""
    if data_type == types.DT_STRING:
        return "string"
    return next((name for name, known in _BY_NAME.items() if known == data_type), f"type {data_type}")


def _encoded_strings(array: Array) -> list[bytes]:
    strings = []
    for item in array.ravel().tolist():
        if isinstance(item, str):
            try:
                strings.append(item.encode())
            except UnicodeEncodeError as error:
                raise TensorTypeError(
                    "A string cannot be sent: it is not valid Unicode text.", hint="Send it as bytes."
                ) from error
        elif isinstance(item, bytes):
            strings.append(item)
        else:
            raise TensorTypeError(
                f"An array of objects cannot be sent: expected only str or bytes, got {type(item).__name__}.",
                hint="Convert the array to numbers or strings.",
            )
    return strings


def _shape(tensor: TensorProto) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if len(shape) > _MAX_RANK:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has too many dimensions: expected at most {_MAX_RANK}, got {len(shape)}."
        )
    sizes = [size for size in shape if size != 0]  # numpy multiplies the other sizes even if the tensor is empty
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape) or math.prod(sizes) > MAX_BYTES:
        raise ClientCode.TENSOR_MALFORMED.error(f"A tensor in the reply has the invalid shape {shape}.")
    return shape


def _from_content(tensor: TensorProto, content_type: str, count: int) -> Array:
    content = bytearray(tensor.tensor_content)  # a copy, so that the array is writable
    expected = count * np.dtype(content_type).itemsize
    if len(content) != expected:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has the wrong size: expected {expected} bytes for its shape, got {len(content)}."
        )
    if tensor.dtype == types.DT_BOOL:
        content_type = "u1"
    values: Array = np.frombuffer(content, dtype=content_type)
    if tensor.dtype == types.DT_BOOL:
        return values.astype(np.bool_)  # each byte except zero means true
    return _widened(values, tensor.dtype)


def _narrowed(values: Array, data_type: types.DataType, content_type: str) -> Array:
    """Return the values of a typed field (int32 for all small types, float pairs for complex) in the tensor's type."""
    if data_type in (types.DT_COMPLEX64, types.DT_COMPLEX128):
        if values.size % 2:
            raise ClientCode.TENSOR_MALFORMED.error(
                f"A complex tensor in the reply is invalid: expected pairs of numbers, got {values.size} numbers."
            )
        return values.view(content_type)
    if data_type in (types.DT_HALF, types.DT_BFLOAT16):
        return values.astype("<u2").view(content_type)
    narrow: Array = values.astype(content_type, copy=False)
    if values.dtype.kind == "i" and (narrow != values).any():
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has values outside the range of its type {narrow.dtype}."
        )
    return narrow


def _widened(values: Array, data_type: types.DataType) -> Array:
    if data_type != types.DT_BFLOAT16:
        return values
    widened: Array = (values.astype(np.uint32) << 16).view(np.float32)
    return widened


def _filled(values: Array, count: int, *, default: bytes | int) -> Array:
    """Return ``count`` values. The last value is repeated; without any value, all are the type's zero."""
    if values.size > count:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has too many values: expected at most {count} for its shape, got {values.size}."
        )
    if values.size == count:
        return values
    filled: Array = np.empty(count, dtype=values.dtype)
    filled[: values.size] = values
    filled[values.size :] = values[-1] if values.size else default
    return filled


def _content_strings(content: bytes, count: int) -> list[bytes]:
    """Return the strings of ``tensor_content``: their lengths as varints, then the strings.

    Source: ``EncodeStringList`` in tsl/platform/tensor_coding.cc.
    """
    lengths: list[int] = []
    position = value = shift = 0
    while len(lengths) < count and position < len(content) and shift <= _MAX_SHIFT:
        value |= (content[position] & 0x7F) << shift
        shift += 7
        if content[position] < 0x80:  # noqa: PLR2004  # a varint's last byte has its high bit clear
            lengths.append(value)
            value = shift = 0
        position += 1
    if len(lengths) != count or position + sum(lengths) != len(content):
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A string tensor in the reply is invalid: expected the data of {count} strings."
        )
    strings = []
    for length in lengths:
        strings.append(content[position : position + length])
        position += length
    return strings
