"""The parts of a parsed JSON document: objects, lists, and numbers as arrays of machine numbers.

A request can have a hundred million numbers. As Python objects, they would use ten times the memory of their text. So a
list that contains only numbers, or only such lists of the same shape, becomes one `Numbers` of any depth.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

LEAST: Final = -(2**63)
GREATEST: Final = 2**64 - 1
"""Integers outside of this range are converted to doubles (RapidJSON, ``reader.h``, ``ParseNumber``)."""
_CODES: Final = (
    ("b", -(2**7), 2**7 - 1),
    ("h", -(2**15), 2**15 - 1),
    ("i", -(2**31), 2**31 - 1),
    ("q", LEAST, 2**63 - 1),
    ("Q", 0, GREATEST),
)
"""Types of arrays, and the ranges of integers that they can hold."""
_SMALL: Final = 1024
"""Shorter parts are merged, because each part has an overhead."""
_PART: Final = 8192


@dataclass(frozen=True, slots=True)
class Part:
    """Some consecutive numbers.

    Args:
        values: The numbers: doubles, integers of the smallest fitting size, or a list if no array can hold them all.
        whole: For each double, whether it was an integer in the text; empty if all numbers were of one kind.
    """

    values: Any
    whole: bytes = b""

    @property
    def has_fractions(self) -> bool:
        """Whether a number has a fraction or exponent in the text."""
        return isinstance(self.values, array) and self.values.typecode in {"f", "d"}

    def numbers(self) -> Iterable[Any]:
        """Return Python numbers: ``int`` for integers in the text."""
        if self.whole:
            return [int(value) if whole else value for value, whole in zip(self.values, self.whole, strict=True)]
        values: Iterable[Any] = self.values
        return values

    @property
    def size(self) -> int:
        """The bytes that the part uses in memory."""
        width = self.values.itemsize if isinstance(self.values, array) else 40
        return len(self.values) * width + len(self.whole) + 320


@dataclass(frozen=True, slots=True)
class Numbers:
    """A regular list of numbers.

    Args:
        sizes: The size of each dimension, the innermost first. So an enclosing list adds its size at the end, in a time
            that does not depend on the depth.
        parts: The numbers, one row after the other.
    """

    sizes: list[int]
    parts: list[Part]

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension, the outermost first."""
        return tuple(reversed(self.sizes))

    def __iter__(self) -> Iterator[Any]:
        for part in self.parts:
            yield from part.numbers()


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object. The order of its members and repeated names are preserved.

    Args:
        members: Names and values.
    """

    members: Sequence[tuple[bytes, Any]]

    def __contains__(self, name: bytes) -> bool:
        return any(found == name for found, _ in self.members)

    def __getitem__(self, name: bytes) -> Any:
        """Return the value of the first member with this name, like RapidJSON's ``FindMember``."""
        for found, value in self.members:
            if found == name:
                return value
        raise KeyError(name)

    def get(self, name: bytes, default: Any) -> Any:
        """Return the value of the first member with this name, or ``default``."""
        return next((value for found, value in self.members if found == name), default)


@dataclass(frozen=True, slots=True)
class Base64:
    """An object whose only member is named ``b64`` and is a string.

    Args:
        content: The decoded bytes, or None if the string is not valid base64.
    """

    content: bytes | None


def fractions(values: list[Any], *, single: bool) -> Part:
    """Return floating-point numbers as a part, rounded to single precision if ``single`` is true."""
    return Part(array("f" if single else "d", values))


def part_of(values: list[Any], single: bool = False) -> Part:
    """Return Python numbers as a part.

    Args:
        values: The numbers.
        single: Whether single precision is enough for fractions.

    Raises:
        OverflowError: An integer is too large for a double.
    """
    kinds = set(map(type, values))
    if int in kinds:
        if kinds == {int}:
            least, greatest = min(values), max(values)
            for code, low, high in _CODES:
                if low <= least and greatest <= high:
                    return Part(array(code, values))
            if least >= LEAST and greatest <= GREATEST:
                return Part(values)
        values = [value if LEAST <= value <= GREATEST or type(value) is float else float(value) for value in values]
        whole = bytes(type(value) is int for value in values)
        return Part(array("f" if single else "d", values), whole if any(whole) else b"")
    return fractions(values, single=single)


def closed(values: list[Any], *, single: bool = False) -> Any:
    """Return a list in its stored form: a regular list of numbers becomes `Numbers`, any other list is unchanged.

    The time does not depend on the depth of a single element, because a client can send millions of brackets. Two
    elements of the same shape have as much text as their depth.

    Args:
        values: The list, whose elements are in their stored form. They can become parts of the result.
        single: Whether single precision is enough for fractions.

    Raises:
        OverflowError: An integer is too large for a double.
    """
    kinds = set(map(type, values))
    if kinds and kinds <= {int, float}:
        return Numbers([len(values)], [part_of(values, single)])
    if kinds == {Numbers}:
        first, *others = values
        if not others:
            first.sizes.append(1)
            return first
        if all(other.sizes == first.sizes for other in others):
            sizes = [*first.sizes, len(values)]
            return Numbers(sizes, _joined((part for value in values for part in value.parts), single))
    return values


def _joined(parts: Iterable[Part], single: bool) -> list[Part]:
    found: list[Part] = []
    waiting: list[Any] = []
    for part in parts:
        small = len(part.values) < _SMALL
        if waiting and (not small or len(waiting) >= _PART):
            found.append(part_of(waiting, single))
            waiting = []
        if small:
            waiting.extend(part.numbers())
        else:
            found.append(part)
    return [*found, part_of(waiting, single)] if waiting else found


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the sizes of a list, of its first element, and so on (``GetDenseTensorShape``)."""
    shape: list[int] = []
    while isinstance(node, list):
        shape.append(len(node))
        if not node:
            break
        node = node[0]
    return (*shape, *node.shape) if isinstance(node, Numbers) else tuple(shape)


def count(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape."""
    return math.prod(shape)


def json_type(node: Any) -> str:
    """Return RapidJSON's name of a value's type."""
    if node is None:
        return "Null"
    if isinstance(node, bool):
        return str(node)
    if isinstance(node, JsonObject | Base64):
        return "Object"
    if isinstance(node, list | Numbers):
        return "Array"
    return "String" if isinstance(node, bytes) else "Number"
