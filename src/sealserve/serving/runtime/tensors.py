"""Tensors in TensorFlow's memory, made of the messages that clients send and turned into those that they get.

Source: tensorflow/tensorflow 2.21, ``tensorflow/core/framework/tensor.proto`` (which field holds which type) and
``tensor.cc`` (``Tensor::AsProtoField``).
"""

import ctypes
import math
from array import array
from collections.abc import Iterable, Sequence
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from sealserve.serving.runtime.libtensorflow import TSTRING_SIZE, Library
from sealserve.serving.runtime.protos import DataType, TensorProto

_VARINT_CONTINUES: Final = 0x80
_LENGTH_DELIMITED: Final = 2


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one data type lies in memory, and in which field of a TensorProto it travels.

    Args:
        size: Bytes of one element.
        field: The field of typed values.
        code: The `memoryview` format that reads an element; empty where the field's bytes are the elements' bytes.
    """

    size: int
    field: str
    code: Literal["", "b", "B", "h", "H", "i", "I", "q", "Q"] = ""


_KINDS: Final = {
    DataType.Value(name): kind
    for name, kind in {
        "DT_FLOAT": _Kind(4, "float_val"),
        "DT_DOUBLE": _Kind(8, "double_val"),
        "DT_COMPLEX64": _Kind(8, "scomplex_val"),
        "DT_COMPLEX128": _Kind(16, "dcomplex_val"),
        "DT_BOOL": _Kind(1, "bool_val"),
        "DT_INT8": _Kind(1, "int_val", "b"),
        "DT_UINT8": _Kind(1, "int_val", "B"),
        "DT_INT16": _Kind(2, "int_val", "h"),
        "DT_UINT16": _Kind(2, "int_val", "H"),
        "DT_INT32": _Kind(4, "int_val", "i"),
        "DT_UINT32": _Kind(4, "uint32_val", "I"),
        "DT_INT64": _Kind(8, "int64_val", "q"),
        "DT_UINT64": _Kind(8, "uint64_val", "Q"),
        "DT_HALF": _Kind(2, "half_val", "H"),
        "DT_BFLOAT16": _Kind(2, "half_val", "H"),
        "DT_QINT8": _Kind(1, "int_val", "b"),
        "DT_QUINT8": _Kind(1, "int_val", "B"),
        "DT_QINT32": _Kind(4, "int_val", "i"),
        "DT_STRING": _Kind(TSTRING_SIZE, "string_val"),
    }.items()
}
_STRING: Final = DataType.Value("DT_STRING")

MAX_RANK: Final = 254
"""The most dimensions of a tensor (``TensorShape::MaxDimensions``); also, what is computed with a shape stays small."""


def type_name(dtype: int) -> str:
    """Return a data type's name as TensorFlow's messages spell it: ``float``, ``int32``, ``string``."""
    return str(DataType.Name(dtype)).removeprefix("DT_").lower()


def is_known(dtype: int) -> bool:
    """Whether tensors of this type can be sent and received."""
    return dtype in _KINDS


def shape_of(proto: TensorProto) -> tuple[int, ...]:
    """Return the shape that ``proto`` declares. Check its rank and signs before anything is computed with it."""
    return tuple(dim.size for dim in proto.tensor_shape.dim)


def unpacked_size(proto: TensorProto) -> int:
    """Return how many bytes the tensor of ``proto`` takes in memory: a few bytes of message can stand for many.

    TensorFlow repeats the last value where there are fewer values than elements. A number is then as large as any
    other element; a string is copied once more for each element, whatever its length.

    Source: tensorflow/tensorflow 2.21, ``tensorflow/core/framework/tensor.cc`` (``FromProtoField``).
    """
    elements: int = math.prod(max(size, 0) for size in shape_of(proto))
    size = elements * _KINDS[int(proto.dtype)].size
    if int(proto.dtype) == _STRING:
        values = proto.string_val
        size += len(proto.tensor_content) + sum(map(len, values))
        size += max(elements - len(values), 0) * len(values[-1]) if values else 0
    return size


def element_size(dtype: int) -> int:
    """Return how many bytes an element of a type takes in memory."""
    return _KINDS[dtype].size


class Tensor:
    """A ``TF_Tensor`` that is ours: freed with this object.

    Args:
        library: TensorFlow.
        handle: The tensor.
    """

    __slots__ = ("_library", "handle")

    def __init__(self, library: Library, handle: int | None) -> None:
        self._library = library
        self.handle = handle

    @classmethod
    def from_proto(cls, library: Library, proto: bytes) -> "Tensor":
        """Return the tensor that a serialised TensorProto describes.

        Raises:
            TensorFlowError: Its shape and its values do not fit together.
        """
        tensor = cls(library, library.TF_AllocateTensor(DataType.Value("DT_FLOAT"), None, 0, 4))
        library.parse_tensor(proto, tensor.handle)
        return tensor

    @classmethod
    def from_bytes(cls, library: Library, dtype: int, shape: Sequence[int], parts: Iterable["bytes | Tensor"]) -> Self:
        """Return a tensor of numbers whose memory is ``parts``, one after the other.

        Args:
            library: TensorFlow.
            dtype: The data type; not strings.
            shape: Its shape, which takes exactly the bytes of all parts.
            parts: Bytes, and tensors, whose memory is copied.
        """
        size = math.prod(shape) * element_size(dtype)
        tensor = cls(library, library.TF_AllocateTensor(dtype, (c_int64 * len(shape))(*shape), len(shape), size))
        target = library.TF_TensorData(tensor.handle)
        for part in parts:
            if isinstance(part, Tensor):
                length = library.TF_TensorByteSize(part.handle)
                ctypes.memmove(target, library.TF_TensorData(part.handle), length)
            else:
                length = len(part)
                ctypes.memmove(target, part, length)
            target += length
        return tensor

    def rows(self, start: int, stop: int) -> "Tensor":
        """Return a copy of the rows from ``start`` to ``stop`` of the first dimension."""
        shape = self.shape
        library, dtype = self._library, self.dtype
        row = math.prod(shape[1:])
        if dtype == _STRING:
            return Tensor.from_strings(library, (stop - start, *shape[1:]), self._strings()[start * row : stop * row])
        size = row * element_size(dtype)
        address = library.TF_TensorData(self.handle) + start * size
        return Tensor.from_bytes(
            library, dtype, (stop - start, *shape[1:]), [ctypes.string_at(address, (stop - start) * size)]
        )

    @classmethod
    def from_strings(cls, library: Library, shape: Sequence[int], values: Sequence[bytes]) -> "Tensor":
        """Return a tensor of strings."""
        proto = TensorProto(dtype=_STRING, string_val=values)
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        return Tensor.from_proto(library, proto.SerializeToString())

    def __del__(self) -> None:
        self._library.TF_DeleteTensor(self.handle)

    @property
    def dtype(self) -> int:
        """The data type, as in ``DataType``."""
        return int(self._library.TF_TensorType(self.handle))

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension; empty for a scalar."""
        rank = self._library.TF_NumDims(self.handle)
        return tuple(self._library.TF_Dim(self.handle, index) for index in range(rank))

    def fill(self, proto: Any, *, as_content: bool = False) -> None:
        """Write the type, the shape and all values into ``proto``, an empty TensorProto.

        Args:
            proto: Where they go.
            as_content: Whether the values go into ``tensor_content``, not into the type's own field.
        """
        dtype = self.dtype
        kind = _KINDS[dtype]
        proto.dtype = dtype
        for size in self.shape:
            proto.tensor_shape.dim.add(size=size)
        if dtype == _STRING and as_content:  # tensorflow/core/platform/tensor_coding.cc, EncodeStringList
            strings = self._strings()
            proto.tensor_content = b"".join([*(_varint(len(text)) for text in strings), *strings])
        elif dtype == _STRING:
            proto.string_val.extend(self._strings())
        elif as_content:
            proto.tensor_content = self._bytes()
        elif kind.code:
            getattr(proto, kind.field).extend(memoryview(self._bytes()).cast(kind.code).tolist())
        else:
            proto.MergeFromString(_packed(kind.field, self._bytes()))

    def floats(self) -> list[float]:
        """Return the elements of a tensor of floats."""
        return list(array("f", self._bytes()))

    def strings(self) -> list[bytes]:
        """Return the elements of a tensor of strings."""
        return self._strings()

    def content(self) -> bytes:
        """Return the memory of a tensor of numbers."""
        return self._bytes()

    def _bytes(self) -> bytes:
        return ctypes.string_at(self._library.TF_TensorData(self.handle), self._library.TF_TensorByteSize(self.handle))

    def _strings(self) -> list[bytes]:
        library = self._library
        start = library.TF_TensorData(self.handle)
        count = library.TF_TensorByteSize(self.handle) // TSTRING_SIZE
        strings = (c_void_p(start + index * TSTRING_SIZE) for index in range(count))
        return [ctypes.string_at(library.TF_StringGetDataPointer(s), library.TF_StringGetSize(s)) for s in strings]


def _packed(field: str, raw: bytes) -> bytes:
    """Return the encoding of a packed field whose elements' bytes are ``raw``: no number becomes a Python object.

    Source: protobuf.dev/programming-guides/encoding, "Packed Repeated Fields": fixed-width numbers are little-endian,
    as they lie in memory; a bool is one byte.
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
