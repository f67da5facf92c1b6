"""Tensors in TensorFlow's memory, created from clients' messages and converted to messages for clients.

Bytes enter and leave TensorFlow's memory only through views of the exact size of a tensor, and Python compares the
sizes of both sides before it copies. The size follows from the shape and the type. TensorFlow must not report a smaller
size.

Source: tensorflow/tensorflow 2.21, ``tensorflow/core/framework/tensor.cc`` (``Tensor::AsProtoField``).
"""

import ctypes
import itertools
import math
from array import array
from collections.abc import Iterable, Sequence
from ctypes import c_int64, c_void_p
from typing import Any, Final, Self

from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.data_types import Kind, kind_of, type_name
from sealserve.serving.runtime.libtensorflow import TSTRING_SIZE, Library
from sealserve.serving.runtime.protos import DataType, TensorProto

_VARINT_CONTINUES: Final = 0x80
_LENGTH_DELIMITED: Final = 2


_STRING: Final = DataType.Value("DT_STRING")
_READ: Final = 0x100
_WRITE: Final = 0x200
"""``PyBUF_READ`` and ``PyBUF_WRITE`` (Python's C API, ``object.h``)."""
_view: Final = ctypes.pythonapi.PyMemoryView_FromMemory
_view.restype, _view.argtypes = ctypes.py_object, (c_void_p, ctypes.c_ssize_t, ctypes.c_int)

_LARGEST_EXTENT: Final = 2**63 - 1
MAX_RANK: Final = 254
"""Maximum rank of a tensor (``TensorShape::MaxDimensions``). It also limits the cost of computations with a shape."""


def shape_of(proto: TensorProto) -> tuple[int, ...]:
    """Return the shape in ``proto``. Before any computation with it, check its rank and the signs of its sizes."""
    return tuple(dim.size for dim in proto.tensor_shape.dim)


def unpacked_size(proto: TensorProto) -> int:
    """Return the bytes that the tensor of ``proto`` uses in memory. A short message can describe a large tensor.

    If a message has fewer values than the tensor has elements, TensorFlow repeats the last value. A repeated number has
    the size of any other element. A repeated string is copied for each element, regardless of its length.

    Source: tensorflow/tensorflow 2.21, ``tensorflow/core/framework/tensor.cc`` (``FromProtoField``).
    """
    elements: int = math.prod(max(size, 0) for size in shape_of(proto))
    size = elements * kind_of(int(proto.dtype)).size
    if int(proto.dtype) == _STRING:
        values = proto.string_val
        size += len(proto.tensor_content) + sum(map(len, values))
        size += max(elements - len(values), 0) * len(values[-1]) if values else 0
    return size


class Tensor:
    """A ``TF_Tensor`` that this object owns, and frees when it is deleted.

    Args:
        library: TensorFlow.
        handle: The tensor.
    """

    __slots__ = ("_dtype", "_library", "_shape", "handle")

    def __init__(self, library: Library, handle: int | None) -> None:
        self._library = library
        self.handle = handle
        self._dtype: int | None = None
        self._shape: tuple[int, ...] | None = None

    @classmethod
    def from_proto(cls, library: Library, proto: bytes) -> "Tensor":
        """Return the tensor in a serialized TensorProto.

        Raises:
            TensorFlowError: The shape does not match the values.
        """
        tensor = cls(library, library.TF_AllocateTensor(DataType.Value("DT_FLOAT"), None, 0, 4))
        library.parse_tensor(proto, tensor.handle)
        return tensor

    @classmethod
    def from_bytes(
        cls, library: Library, dtype: int, shape: Sequence[int], parts: Sequence["bytes | memoryview | Tensor"]
    ) -> Self:
        """Return a tensor of numbers whose memory consists of ``parts``, one after the other.

        Args:
            library: TensorFlow.
            dtype: The data type; not strings.
            shape: The shape. Its size must equal the size of all parts, so that each byte of the new tensor is written.
            parts: Bytes, and tensors of the same type, whose memory is copied.

        Raises:
            RequestError: `request.tensor-size`: The total size of the parts is not the size of the tensor.
            RequestError: `request.tensor-type`: The type, or the type of a part, is not ``dtype``, or is not a type of
                numbers.
        """
        if dtype == _STRING or any(isinstance(part, Tensor) and part.dtype != dtype for part in parts):
            raise RequestCode.TENSOR_TYPE.error(
                f"The bytes do not belong to a tensor of numbers of the type {type_name(dtype)}."
            )
        expected = _size_of(dtype, shape)
        contents = [part.memory() if isinstance(part, Tensor) else memoryview(part) for part in parts]
        size = sum(content.nbytes for content in contents)
        if size != expected:
            raise RequestCode.TENSOR_SIZE.error(
                f"The size of a tensor of the type {type_name(dtype)} and the shape {list(shape)} does not match its"
                f" parts: expected {expected} bytes, got {size}."
            )
        tensor = cls(library, library.TF_AllocateTensor(dtype, (c_int64 * len(shape))(*shape), len(shape), expected))
        memory, start = tensor.memory(writable=True), 0
        for content in contents:
            memory[start : start + content.nbytes] = content  # ValueError where the sizes differ
            start += content.nbytes
        return tensor

    @classmethod
    def from_stream(cls, library: Library, dtype: int, shape: Sequence[int], contents: Iterable[memoryview]) -> Self:
        """Return a tensor of numbers whose memory is written part by part, so that not all parts exist at once.

        Args:
            library: TensorFlow.
            dtype: The data type; not strings.
            shape: Its shape.
            contents: Bytes, one part after the other.

        Raises:
            RequestError: `request.tensor-size`: The total size of the parts is not the size of the tensor.
            RequestError: `request.tensor-type`: The type is not a type of numbers.
        """
        if dtype == _STRING:
            raise RequestCode.TENSOR_TYPE.error(
                "A string tensor does not contain plain bytes: its memory contains addresses."
            )
        size = _size_of(dtype, shape)
        tensor = cls(library, library.TF_AllocateTensor(dtype, (c_int64 * len(shape))(*shape), len(shape), size))
        memory, written = tensor.memory(writable=True), 0
        for content in contents:
            if written + content.nbytes <= size:
                memory[written : written + content.nbytes] = content
            written += content.nbytes
        if written != size:
            raise RequestCode.TENSOR_SIZE.error(
                f"The size of a tensor of the type {type_name(dtype)} and the shape {list(shape)} does not match its"
                f" parts: expected {size} bytes, got {written}."
            )
        return tensor

    def rows(self, start: int, stop: int) -> "Tensor":
        """Return a copy of the rows from ``start`` to ``stop`` of the first dimension.

        Raises:
            RequestError: `request.tensor-size`: The tensor does not have these rows.
        """
        library, dtype, shape = self._library, self.dtype, self.shape
        if not shape or not 0 <= start <= stop <= shape[0]:
            raise RequestCode.TENSOR_SIZE.error(
                f"A tensor of the shape {list(shape)} does not have the rows from {start} to {stop}."
            )
        cut = (stop - start, *shape[1:])
        if dtype == _STRING:
            row = math.prod(shape[1:])
            return Tensor.from_strings(library, cut, self.strings()[start * row : stop * row])
        row = _size_of(dtype, shape[1:])
        return Tensor.from_bytes(library, dtype, cut, [self.memory()[start * row : stop * row]])

    @classmethod
    def joined(cls, library: Library, tensors: Sequence["Tensor"]) -> "Tensor":
        """Return the concatenation of tensors along the first dimension.

        Raises:
            RequestError: `request.tensor-size`: The tensors differ in type, or in a dimension other than the first.
        """
        first = tensors[0]
        dtype, shapes = first.dtype, [tensor.shape for tensor in tensors]
        if any(not shape or shape[1:] != shapes[0][1:] for shape in shapes) or any(
            tensor.dtype != dtype for tensor in tensors
        ):
            raise RequestCode.TENSOR_SIZE.error(
                "Tensors that differ in type or in the shape of a row cannot be joined."
            )
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if dtype == _STRING:
            return cls.from_strings(library, shape, list(itertools.chain.from_iterable(map(Tensor.strings, tensors))))
        return cls.from_bytes(library, dtype, shape, tensors)

    @classmethod
    def from_strings(cls, library: Library, shape: Sequence[int], values: Sequence[bytes]) -> "Tensor":
        """Return a tensor of strings.

        Raises:
            RequestError: `request.tensor-size`: The number of values is not the number of elements of the shape.
        """
        if len(values) * TSTRING_SIZE != _size_of(_STRING, shape):
            raise RequestCode.TENSOR_SIZE.error(
                f"A tensor of the shape {list(shape)} does not have {len(values)} strings."
            )
        proto = TensorProto(dtype=_STRING, string_val=values)
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        return Tensor.from_proto(library, proto.SerializeToString())

    def __del__(self) -> None:
        self._library.TF_DeleteTensor(self.handle)

    @property
    def dtype(self) -> int:
        """The data type, as in ``DataType``."""
        if self._dtype is None:
            self._dtype = int(self._library.TF_TensorType(self.handle))
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension; empty for a scalar."""
        if self._shape is None:
            library, handle = self._library, self.handle
            self._shape = tuple([library.TF_Dim(handle, index) for index in range(library.TF_NumDims(handle))])
        return self._shape

    def memory(self, *, writable: bool = False) -> memoryview:
        """Return a view of exactly the elements' bytes. Do not use the view after the tensor is freed.

        Raises:
            RequestError: `request.tensor-size`: TensorFlow's memory is smaller than the shape and the type require.
            RequestError: `request.tensor-type`: A message cannot contain the tensor's type.
        """
        size = _size_of(self.dtype, self.shape)
        if not size:
            return memoryview(bytearray())
        address = self._library.TF_TensorData(self.handle)
        available = self._library.TF_TensorByteSize(self.handle)
        if available < size or not address:
            raise RequestCode.TENSOR_SIZE.error(
                f"The memory of a tensor of the type {type_name(self.dtype)} and the shape {list(self.shape)} is too"
                f" small: expected {size} bytes, got {available}."
            )
        view: memoryview = _view(address, size, _WRITE if writable else _READ)
        return view

    def fill(self, proto: Any, *, as_content: bool = False) -> None:
        """Write the type, the shape and all values into ``proto``, an empty TensorProto.

        Args:
            proto: The message to fill.
            as_content: Whether to write the values into ``tensor_content`` instead of the type's own field.

        Raises:
            RequestError: `request.tensor-type`: A message cannot contain the tensor's type.
        """
        dtype = self.dtype
        kind = kind_of(dtype)
        proto.dtype = dtype
        for size in self.shape:
            proto.tensor_shape.dim.add(size=size)
        if dtype == _STRING and as_content:  # tensorflow/core/platform/tensor_coding.cc, EncodeStringList
            strings = self.strings()
            proto.tensor_content = b"".join([*(_varint(len(text)) for text in strings), *strings])
        elif dtype == _STRING:
            proto.string_val.extend(self.strings())
        elif as_content:
            proto.tensor_content = self.content()
        elif kind.code:
            getattr(proto, kind.field).extend(self._numbers(kind).cast(kind.code).tolist())
        else:
            proto.MergeFromString(_packed(kind.field, self.content()))

    def floats(self) -> list[float]:
        """Return the elements of a tensor of floats."""
        return list(array("f", self.content()))

    def strings(self) -> list[bytes]:
        """Return the elements of a tensor of strings."""
        library = self._library
        if self.dtype != _STRING:
            raise RequestCode.TENSOR_TYPE.error(
                f"A tensor of the type {type_name(self.dtype)} does not contain strings."
            )
        memory = self.memory()
        if not memory:
            return []
        start = library.TF_TensorData(self.handle)
        strings = (c_void_p(start + offset) for offset in range(0, memory.nbytes, TSTRING_SIZE))
        return [ctypes.string_at(library.TF_StringGetDataPointer(s), library.TF_StringGetSize(s)) for s in strings]

    def content(self) -> bytes:
        """Return the memory of a tensor of numbers."""
        if self.dtype == _STRING:
            raise RequestCode.TENSOR_TYPE.error(
                "A string tensor does not contain plain bytes: its memory contains addresses."
            )
        return bytes(self._numbers(kind_of(self.dtype)))

    def _numbers(self, kind: Kind) -> memoryview:
        memory = self.memory()
        return memory if kind.canonical is None else memoryview(bytes(memory).translate(kind.canonical))


def string_message(shape: Sequence[int], values: Iterable[bytes | memoryview]) -> bytes:
    """Return the serialized TensorProto of a tensor of strings. It keeps no Python object for a string.

    Args:
        shape: The shape.
        values: The strings, which are read once.
    """
    proto = TensorProto(dtype=_STRING)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    tag = TensorProto.DESCRIPTOR.fields_by_name["string_val"].number << 3 | _LENGTH_DELIMITED
    message = bytearray(proto.SerializeToString())
    for value in values:
        message.append(tag)
        message += _varint(len(value))
        message += value
    return bytes(message)


def _size_of(dtype: int, shape: Sequence[int]) -> int:
    """Return the size of a tensor in memory, in bytes.

    TensorFlow ends the process if the product of some sizes is not a signed integer of 64 bits, also beside a zero.
    """
    size = kind_of(dtype).size
    if min(shape, default=0) < 0 or math.prod(max(length, 1) for length in shape) * size > _LARGEST_EXTENT:
        raise RequestCode.TENSOR_SIZE.error(f"A tensor cannot have the shape {list(shape)}.")
    elements: int = math.prod(shape)
    return elements * size


def _packed(field: str, raw: bytes) -> bytes:
    """Return the encoding of a packed field whose elements' bytes are ``raw``, without creating Python numbers.

    Source: protobuf.dev/programming-guides/encoding, "Packed Repeated Fields". Fixed-width numbers are little-endian,
    as in memory; a bool is one byte.
    """
    if not raw:
        return b""
    number: int = TensorProto.DESCRIPTOR.fields_by_name[field].number
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(raw)) + raw


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= _VARINT_CONTINUES:
        encoded.append(number & 0x7F | _VARINT_CONTINUES)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
