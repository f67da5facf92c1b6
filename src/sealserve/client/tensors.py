"""Tensors on the wire: numpy arrays to ``TensorProto`` and back.

Arrays are sent as ``tensor_content``, one copy of their bytes. Replies come in either form, and TensorFlow Serving
prefers the typed fields, where fewer values than elements mean that the last one repeats.

``bfloat16``, which numpy lacks, is sent as it is when the array comes from ``ml_dtypes`` (it need not be imported
here), and read as ``float32``, which holds every value of it.

Source: tensorflow/core/framework/tensor.proto and tensor.cc (``FromProtoField``), TensorFlow 2.21.
"""

import math
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
"""What one protobuf message holds; a reply that declares a larger tensor is refused before memory is taken."""
_MAX_RANK = 64  # numpy's (NPY_MAXDIMS)
_MAX_SHIFT = 63  # of the last of a varint's ten bytes


class TensorTypeError(InputError):
    """An array has an element type that TensorFlow Serving does not take."""

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
    """Return ``array`` as a tensor to send.

    Args:
        array: Any shape; booleans, integers, floats, complex numbers, or strings: ``bytes``, or ``str`` as UTF-8.

    Raises:
        TensorTypeError: Elements of another type.
        InputError: `client.tensor-too-large`: More bytes than a message holds.
    """
    array = np.asarray(array)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    if array.dtype.kind in "OSUT":
        return TensorProto(dtype=types.DT_STRING, tensor_shape=shape, string_val=_encoded_strings(array))
    data_type = _BY_NAME.get(array.dtype.name)
    if data_type is None:
        raise TensorTypeError(
            f"An array of {array.dtype} cannot be sent: TensorFlow Serving has no such type.",
            hint=f"Convert it to one of {', '.join(_BY_NAME)}, or strings.",
        )
    if array.nbytes > MAX_BYTES:
        raise ClientCode.TENSOR_TOO_LARGE.error(
            f"An array of shape {array.shape} and {array.nbytes} bytes cannot be sent: a request holds {MAX_BYTES}.",
            hint="Send a smaller batch.",
        )
    if data_type != types.DT_BFLOAT16:  # numpy may know neither its kind nor its byte order
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return TensorProto(dtype=data_type, tensor_shape=shape, tensor_content=array.tobytes())


def from_proto(tensor: TensorProto) -> Array:
    """Return a tensor of a reply as an array: writable, and of ``bytes`` objects where the tensor has strings.

    Raises:
        UnavailableError: `client.tensor-malformed`: A type that is not known, a shape that is not one, values that do
            not fill it.
    """
    shape = _shape(tensor)
    count = math.prod(shape)
    content_type, value_type, field = _TYPES.get(tensor.dtype, ("O", "O", "string_val"))
    if count * np.dtype(content_type).itemsize > MAX_BYTES:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has shape {shape}: more than {MAX_BYTES} bytes."
        )
    if tensor.dtype == types.DT_STRING:
        strings = _content_strings(tensor.tensor_content, count) if tensor.tensor_content else list(tensor.string_val)
        values = np.empty(len(strings), dtype=object)
        values[:] = strings
        return _filled(values, count, default=b"").reshape(shape)
    if tensor.dtype not in _TYPES:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has type {tensor.dtype}, which is not known here."
        )
    if tensor.tensor_content:
        return _from_content(tensor, content_type, count).reshape(shape)
    given = getattr(tensor, field)
    values = _narrowed(np.array(given, dtype=value_type), tensor.dtype, content_type)
    return _widened(_filled(values, count, default=0), tensor.dtype).reshape(shape)


def data_type_name(data_type: types.DataType) -> str:
    """Return the name of ``data_type`` as numpy has it (``float32``), or ``string``, or its number if not known."""
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
                raise TensorTypeError("A string cannot be sent: it is no Unicode text.", hint="Send bytes.") from error
        elif isinstance(item, bytes):
            strings.append(item)
        else:
            raise TensorTypeError(
                f"An array of objects cannot be sent unless all are str or bytes; one is {type(item).__name__}.",
                hint="Convert it to an array of numbers or of strings.",
            )
    return strings


def _shape(tensor: TensorProto) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if len(shape) > _MAX_RANK:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has {len(shape)} dimensions; numpy has up to {_MAX_RANK}."
        )
    sizes = [size for size in shape if size != 0]  # numpy multiplies the others even where the tensor is empty
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape) or math.prod(sizes) > MAX_BYTES:
        raise ClientCode.TENSOR_MALFORMED.error(f"A tensor in the reply has shape {shape}, which no tensor can have.")
    return shape


def _from_content(tensor: TensorProto, content_type: str, count: int) -> Array:
    content = bytearray(tensor.tensor_content)  # a copy of our own, so that the array is writable
    expected = count * np.dtype(content_type).itemsize
    if len(content) != expected:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has {len(content)} bytes; its shape needs {expected}."
        )
    if tensor.dtype == types.DT_BOOL:
        content_type = "u1"
    values: Array = np.frombuffer(content, dtype=content_type)
    if tensor.dtype == types.DT_BOOL:
        return values.astype(np.bool_)  # any byte but zero means true
    return _widened(values, tensor.dtype)


def _narrowed(values: Array, data_type: types.DataType, content_type: str) -> Array:
    """Return the values of a typed field (int32 for all small types, float pairs for complex) in the tensor's type."""
    if data_type in (types.DT_COMPLEX64, types.DT_COMPLEX128):
        if values.size % 2:
            raise ClientCode.TENSOR_MALFORMED.error(
                f"A complex tensor in the reply has {values.size} numbers, not pairs."
            )
        return values.view(content_type)
    if data_type in (types.DT_HALF, types.DT_BFLOAT16):
        return values.astype("<u2").view(content_type)
    narrow: Array = values.astype(content_type, copy=False)
    if values.dtype.kind == "i" and (narrow != values).any():
        raise ClientCode.TENSOR_MALFORMED.error(f"A tensor in the reply has values outside {narrow.dtype}.")
    return narrow


def _widened(values: Array, data_type: types.DataType) -> Array:
    if data_type != types.DT_BFLOAT16:
        return values
    widened: Array = (values.astype(np.uint32) << 16).view(np.float32)
    return widened


def _filled(values: Array, count: int, *, default: bytes | int) -> Array:
    """Return ``count`` values: the last one repeats, and no value at all means the type's zero."""
    if values.size > count:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"A tensor in the reply has {values.size} values; its shape has room for {count}."
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
        raise ClientCode.TENSOR_MALFORMED.error(f"A string tensor in the reply does not hold {count} strings.")
    strings = []
    for length in lengths:
        strings.append(content[position : position + length])
        position += length
    return strings
