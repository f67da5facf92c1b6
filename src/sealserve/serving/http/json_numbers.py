"""Parsing of numbers in JSON: a single number exactly like RapidJSON, and whole arrays with Python's fast parser.

Source: RapidJSON 1.1.0, ``reader.h`` (``ParseNumber``), the version that TensorFlow Serving pins (``workspace.bzl``),
with ``kParseNanAndInfFlag``. If both parsers accept a number, Python rounds correctly, and RapidJSON's result may
differ in the last bits of a double.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from sealserve.serving.http.json_errors import syntax_error
from sealserve.serving.http.json_nodes import GREATEST, LEAST, Numbers, Part, fractions, part_of

Text = bytes | bytearray

_NUMBER: Final = re.compile(
    rb"-?(?:(0|[1-9][0-9]*+)(\.[0-9]++)?+([eE][+-]?[0-9]++)?+|NaN|Inf(?:inity)?+)",
)
_WORDS: Final = (b"NaN", b"Inf")
_LETTERS: Final = b"0123456789.-+eENaIfinty"
"""The characters of numbers, including NaN and Infinity."""
_SPACES: Final = b" \t\r\n"
_MARKED: Final = bytes.maketrans(_LETTERS, b"0" * len(_LETTERS))
"""Replaces the characters of numbers by zeros, so that their positions among brackets and commas are visible."""
_BLANKED: Final = bytes.maketrans(b"[]", b"  ")
_ROW: Final = re.compile(rb"\[[0-9.\-+eE \t\r\nNaIfinty,]++\]")
LARGE: Final = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{300}")
"""Numbers whose size RapidJSON checks by its own rules."""
_PIECE: Final = 64 * 1024
"""Bytes that Python's parser gets at a time, which limits how many numbers are Python objects."""
_FIRST: Final = 256
"""Bytes that are examined first, because a document can have many short arrays."""
_DEEPEST: Final = 64
_DIGITS: Final = 309
"""An integer with more digits is larger than the largest double."""
_EXPONENT: Final = 308
_EXACT: Final = 2**53 - 1
_SIGNIFICANT: Final = 17


def number(text: Text, start: int) -> tuple[int | float, int]:
    """Return the number at ``start``, and its end.

    Raises:
        RequestError: `request.json-syntax`: The text is not a number, or the number is too large.
    """
    found = _NUMBER.match(text, start)
    if found is None:
        raise syntax_error("Invalid value.", _progress(text, start))
    end, (digits, fraction, exponent) = found.end(), found.groups()
    following = bytes(text[end : end + 1])
    if digits is None:
        if following == b"i" and text[end - 3 : end] == b"Inf":
            raise syntax_error("Invalid value.", end + _common(text, end, b"inity"))
        word = text[end - 1 : end]
        infinity = -math.inf if text[start : start + 1] == b"-" else math.inf
        return (math.nan if word == b"N" else infinity), end
    too_big = syntax_error("Number too big to be stored in double.", start)
    if len(digits) > _DIGITS or (len(digits) == _DIGITS and math.isinf(float(digits))):
        raise too_big
    if fraction is None and exponent is None and following == b".":
        raise syntax_error("Miss fraction part in number.", end + 1)
    if exponent is None and following in {b"e", b"E"}:
        signed = bytes(text[end + 1 : end + 2]) in {b"+", b"-"}
        raise syntax_error("Miss exponent in number.", end + 1 + signed)
    if exponent and _too_large(digits, fraction or b"", exponent):
        raise too_big
    if fraction is None and exponent is None:
        whole = int(text[start:end])
        return (whole if LEAST <= whole <= GREATEST else float(whole)), end
    return float(text[start:end]), end


def _too_large(digits: bytes, fraction: bytes, exponent: bytes) -> bool:
    power = exponent[1:].lstrip(b"+").lstrip(b"0")
    if power.startswith(b"-") or len(power) < 3:  # noqa: PLR2004
        return False
    # The limit grows with each digit after the point that RapidJSON still adds to the number.
    value, significant, used = int(digits), len(digits) - 1, 0
    for digit in fraction[1:]:
        if value > _EXACT and significant >= _SIGNIFICANT:
            break
        value = value * 10 + digit - ord("0")
        significant += bool(value)
        used += 1
    return len(power) > 10 or int(power) > _EXPONENT + used  # noqa: PLR2004


def _progress(text: Text, start: int) -> int:
    """Return the position at which RapidJSON reports an invalid number."""
    start += text[start : start + 1] == b"-"
    return start + max(_common(text, start, word) for word in _WORDS)


def _common(text: Text, start: int, word: bytes) -> int:
    matched = 0
    while matched < len(word) and text[start + matched : start + matched + 1] == word[matched : matched + 1]:
        matched += 1
    return matched


class PartReader:
    """Parses parts of a document many values at a time, if they are simple enough.

    Args:
        text: The document.
        single: Whether single precision is enough for fractions.
        charge: Called with the bytes that a part uses.
    """

    def __init__(self, text: Text, *, single: bool, charge: Callable[[int], None]) -> None:
        self._text = text
        self._single = single
        self._charge = charge
        self._tried = 0


class ArrayReader(PartReader):
    """Parses arrays of numbers."""

    def read(self, start: int, *, keep: bool) -> tuple[Numbers | None, int]:
        """Return the array that begins at ``start``, and its end. The end is 0 if it must be parsed value by value.

        This is the case if the array contains other values than numbers, lists of different lengths, or an error.

        Args:
            start: The position of the bracket.
            keep: Whether the numbers are needed.
        """
        found = self._row(start) if start < self._tried else self._array(start)
        if found is None:
            return None, 0
        end, shape = found
        total = 0
        parts: list[Part] = []
        try:
            for values, all_fractions in self._pieces(start, end):
                total += len(values)
                if keep:
                    part = fractions(values, single=self._single) if all_fractions else part_of(values, self._single)
                    self._charge(part.size)
                    parts.append(part)
        except (ValueError, OverflowError):
            return None, 0
        if total != math.prod(shape):  # it contains an empty list
            return None, 0
        return Numbers(list(reversed(shape)), parts) if keep else None, end

    def _row(self, start: int) -> tuple[int, tuple[int, ...]] | None:
        """Return the end and the shape of the list of numbers at ``start``, which must not contain lists."""
        row = _ROW.match(self._text, start)
        if row is None:
            return None
        end = row.end()
        del row
        return end, (self._text.count(b",", start, end) + 1,)

    def _array(self, start: int) -> tuple[int, tuple[int, ...]] | None:
        """Return the end and the shape of the array at ``start``.

        The bytes up to the first character that an array of numbers cannot contain are examined once. After a failure,
        the inner lists are parsed one by one.
        """
        skeletons: list[bytes] = []
        position, size = start, len(self._text)
        end, length = 0, _FIRST
        while position < size:
            stop = _cut(self._text, position, size, length)
            if stop - position > 2 * max(_PIECE, _FIRST):  # no comma for a long time: thousands of brackets or digits
                break
            piece = self._text[position:stop]
            marked = piece.translate(_MARKED, _SPACES)
            if marked.translate(None, b"0[],"):  # another character: the array ends at the last bracket before it
                stop = position + len(piece) - len(piece.lstrip(_LETTERS + _SPACES + b"[],"))
                end = self._text.rfind(b"]", start, stop) + 1
                marked = self._text[position:end].translate(_MARKED, _SPACES)
                position = size
            inner = marked.lstrip(b"[").rstrip(b"]")
            if (b"[" in inner or b"]" in inner) and (b"0[" in inner or b"]0" in inner):
                break
            skeletons.append(bytes(marked.translate(None, b"0")))
            position = max(stop, position)
            length = min(4 * length, _PIECE)
        shape = regular_shape(b"".join(skeletons).rstrip(b",")) if end > start else None
        if shape is None:
            self._tried = stop
            return None
        return end, shape

    def _pieces(self, start: int, end: int) -> Iterator[tuple[list[Any], bool]]:
        """Yield the numbers from ``start`` to ``end`` in pieces of limited size, and whether all are fractions.

        Raises:
            ValueError: The text contains anything else, or a number that RapidJSON checks by its own rules.
        """
        while start < end:
            stop = _cut(self._text, start, end, _PIECE)
            piece = self._text[start:stop].translate(_BLANKED).decode("ascii").removesuffix(",")
            values = _values(f"[{piece}]")
            yield values, piece.count(".") == len(values)
            start = stop


def _cut(text: Text, start: int, end: int, length: int) -> int:
    """Return the end of a piece of the text of about ``length`` bytes: after a comma, or ``end``."""
    comma = text.find(b",", min(start + length, end), end)
    return comma + 1 if comma >= 0 else end


def _values(text: str) -> list[Any]:
    if "I" in text or "-N" in text:
        text = text.replace("Infinity", "Inf").replace("Inf", "Infinity").replace("-NaN", "NaN")
    values: list[Any] = json.loads(text)
    # RapidJSON and Python differ only in numbers that are too large. The sum shows cheaply whether one is present.
    strange = "e" in text or "E" in text or not _is_finite(sum(values))
    if strange and LARGE.search(text.encode()):
        raise ValueError("a number with a large exponent or hundreds of digits")
    return values


def _is_finite(total: float) -> bool:
    return isinstance(total, int) or math.isfinite(total)


def regular_shape(skeleton: bytes) -> tuple[int, ...] | None:
    """Return the shape of a regular nested list, from its brackets and commas only; None if it is not regular.

    >>> regular_shape(b"[[,,],[,,]]")
    (2, 3)
    """
    rank = len(skeleton) - len(skeleton.lstrip(b"["))
    if not 0 < rank <= _DEEPEST:
        return None
    sizes: list[int] = []
    element = b""
    for level in range(1, rank + 1):
        # The first list of this level ends where this number of brackets closes for the first time.
        length = skeleton.find(b"]" * level) + level - (rank - level)
        size, rest = divmod(length - 1, len(element) + 1)
        if size < 1 or rest:
            return None
        sizes.append(size)
        element = b"[" + ((element + b",") * size)[:-1] + b"]"
        if len(element) != length or not skeleton.startswith(element, rank - level):
            return None
    return tuple(reversed(sizes)) if element == skeleton else None
