"""The elements of an input between JSON and TensorFlow's memory, without an intermediate copy.

Creating a tensor through a TensorProto would copy the elements four times.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sealserve.serving.http.json_kinds import KINDS, STRING, Kind
from sealserve.serving.http.json_nodes import Part, count
from sealserve.serving.runtime.data_types import kind_of
from sealserve.serving.runtime.libtensorflow import Library
from sealserve.serving.runtime.protos import TensorProto
from sealserve.serving.runtime.tensors import Tensor

_WRAPS: Final = {"b": ("B", 0xFF), "B": ("B", 0xFF), "h": ("H", 0xFFFF)}


@dataclass(frozen=True, slots=True)
class Leaves:
    """An input that has not been converted to a tensor yet.

    Args:
        dtype: The data type.
        shape: The shape.
        parts: Numbers, one part after the other; emptied when the tensor is created.
        strings: Strings, or empty; emptied when the tensor is created.
        charge: Called with the bytes that the tensor uses, before it is created.
    """

    dtype: int
    shape: tuple[int, ...]
    parts: list[Part]
    strings: list[bytes]
    charge: Callable[[int], None]

    @property
    def size(self) -> int:
        """The bytes that the tensor uses."""
        return count(self.shape) * kind_of(self.dtype).size + sum(map(len, self.strings))

    def tensor(self, library: Library) -> Tensor:
        """Return the tensor.

        Raises:
            TensorFlowError: TensorFlow rejects it.
        """
        if self.dtype == STRING:
            self.charge(3 * self.size)  # the tensor, and the messages of this process and of TensorFlow
            return Tensor.from_proto(library, self._message())
        self.charge(self.size)
        return Tensor.from_stream(library, self.dtype, self.shape, self.contents())

    def contents(self) -> Iterator[memoryview]:
        """Yield the tensor's memory, part by part."""
        self.parts.reverse()
        while self.parts:  # free each part when it is in the tensor
            yield memoryview(_content(self.parts.pop(), KINDS[self.dtype])).cast("B")

    def _message(self) -> bytes:
        proto = TensorProto(dtype=STRING)
        for size in self.shape:
            proto.tensor_shape.dim.add(size=size)
        self.strings.reverse()
        while self.strings:
            proto.string_val.append(self.strings.pop())
        return bytes(proto.SerializeToString())


def _content(part: Part, kind: Kind) -> "array[float] | array[int]":
    """Return a part in the format of the tensor's memory."""
    values: Sequence[int] = part.values
    if isinstance(values, array) and values.typecode == kind.code:
        return values
    if kind.code in _WRAPS:
        code, mask = _WRAPS[kind.code]
        return array(code, [value & mask for value in values])
    return array(kind.code, values)
