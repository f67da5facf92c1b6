"""Inputs of a request before they are tensors: raw bytes, and the typed values of a gRPC message.

The caller checks the type, the shape and the size of an input first (`sealserve.serving.api.predict`). Then the input
checks that its contents match the shape, and becomes a tensor.
"""

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from sealserve.serving.open_inference.datatypes import BOOL, BYTES, Datatype
from sealserve.serving.request_errors import RequestCode, RequestError
from sealserve.serving.runtime.libtensorflow import Library
from sealserve.serving.runtime.tensors import Tensor, string_message

_LENGTH: Final = struct.Struct("<I")
"""The length before each element of raw BYTES."""
_BOOLS: Final = bytes((0, 1))


def ignore(_size: int) -> None:
    """Charge nothing: the bytes of a gRPC message are counted by the transport."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An input of a request.

    Args:
        alias: The input's name.
        datatype: The datatype.
        shape: The shape, which may be invalid until the caller has checked it.
        contents: The elements: raw bytes, or a sequence of values.
        charge: Called with the bytes that the tensor uses, before it is created.
    """

    alias: str
    datatype: Datatype
    shape: tuple[int, ...]
    contents: Any
    charge: Callable[[int], None] = ignore

    @property
    def dtype(self) -> int:
        """TensorFlow's data type."""
        return self.datatype.dtype

    @property
    def elements(self) -> int:
        """The number of elements that the shape requires."""
        return prod(self.shape)

    def fault(self, text: str) -> RequestError:
        """Return an error about the contents.

        Args:
            text: The expected and the actual contents.
        """
        return RequestCode.INPUT_TENSOR.error(f"The contents of the input {self.alias!r} are invalid: {text}.")

    def check_count(self, found: int, what: str = "elements") -> None:
        """Check that the number of elements is the number that the shape requires.

        Raises:
            RequestError: `request.input-tensor`: It is not.
        """
        if found != self.elements:
            raise self.fault(f"the shape {list(self.shape)} requires {self.elements} {what}, got {found}")


class RawInput(Input):
    """An input whose contents are the bytes of its elements, row by row. Numbers are little-endian."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """The size of the tensor in bytes."""
        size: int = self.elements * self.datatype.size
        return size + len(self.contents) if self.datatype.name == BYTES else size

    def tensor(self, library: Library) -> Tensor:
        """Return the tensor.

        Raises:
            RequestError: `request.input-tensor`: The bytes are not elements of the shape and the type.
        """
        if self.datatype.name == BYTES:
            self.charge(2 * len(self.contents) + self.size)  # two messages, and the tensor
            return Tensor.from_proto(library, string_message(self.shape, self._strings()))
        expected = self.elements * self.datatype.size
        if len(self.contents) != expected:
            raise self.fault(f"the shape {list(self.shape)} requires {expected} bytes, got {len(self.contents)}")
        if self.datatype.name == BOOL and bytes(self.contents).translate(None, _BOOLS):
            raise self.fault("expected bytes of the value 0 or 1")
        self.charge(expected)
        return Tensor.from_bytes(library, self.dtype, self.shape, [self.contents])

    def _strings(self) -> Iterator[memoryview]:
        """Yield the elements, each of which has its length before it."""
        contents, position = memoryview(self.contents), 0
        for number in range(self.elements):
            start = position + _LENGTH.size
            if start > len(contents):
                raise self.fault(f"the shape {list(self.shape)} requires {self.elements} elements, got {number}")
            position = start + _LENGTH.unpack_from(contents, start - _LENGTH.size)[0]
            if position > len(contents):
                raise self.fault(f"the length of element {number} is larger than the rest of the contents")
            yield contents[start:position]
        if position != len(contents):
            raise self.fault(f"{len(contents) - position} bytes follow the last element")


class TypedInput(Input):
    """An input whose contents are values in the field of a gRPC message for its type."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """The size of the tensor in bytes."""
        size: int = self.elements * self.datatype.size
        return size + sum(map(len, self.contents)) if self.datatype.name == BYTES else size

    def tensor(self, library: Library) -> Tensor:
        """Return the tensor.

        Raises:
            RequestError: `request.input-tensor`: The values are not elements of the shape and the type.
        """
        if not self.datatype.field:
            raise self.fault(f"{self.datatype.name} requires raw contents")
        self.check_count(len(self.contents), f"elements in {self.datatype.field}")
        if self.datatype.name == BYTES:
            return Tensor.from_proto(library, string_message(self.shape, self.contents))
        return Tensor.from_bytes(
            library, self.dtype, self.shape, [self._numbers(self.contents)] if self.contents else []
        )

    def _numbers(self, values: Sequence[Any]) -> memoryview:
        """Return the tensor's memory."""
        try:
            return memoryview(array(self.datatype.code, values)).cast("B")
        except OverflowError as error:
            raise self.fault(f"a value is outside of the range of {self.datatype.name}") from error
