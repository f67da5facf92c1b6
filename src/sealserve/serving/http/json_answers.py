"""Conversion of tensors to JSON: the answers of the REST API's ``:predict``, in rows and in columns.

An answer is written in pieces, which limits how many values are Python objects or strings at the same time.

Source: tensorflow/serving, ``util/json_tensor.cc`` (``MakeJsonFromTensors``). The layout is identical.
"""

import base64
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from sealserve.serving.http.json_errors import JsonFormError
from sealserve.serving.http.json_kinds import BOOL, KINDS, STRING
from sealserve.serving.http.json_text import decimals, quote
from sealserve.serving.runtime.data_types import type_name
from sealserve.serving.runtime.tensors import Tensor

_BASE64: Final = "b64"
_BYTES_SUFFIX: Final = "_bytes"
_ROW_END: Final = "\0"
"""A separator that no text contains, because JSON escapes it."""
_PIECE: Final = 8192
"""Number of elements that are written at a time."""
_PIECE_BYTES: Final = 2**20
"""Bytes of strings that are written at a time. A longer string is written alone."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output in the form in which it is written.

    Args:
        dtype: The data type.
        shape: The shape.
        values: The elements, as a sequence that supports slices.
    """

    dtype: int
    shape: tuple[int, ...]
    values: Sequence[Any] | memoryview

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """Return the output for ``tensor``. The tensor's memory is not copied, so keep the tensor.

        Raises:
            JsonFormError: JSON cannot represent the tensor's type.
        """
        kind = KINDS.get(tensor.dtype)
        if kind is None:
            raise JsonFormError(f"Failed to write JSON value for tensor type: {type_name(tensor.dtype)}")
        values = tensor.memory().cast("B").cast(kind.code) if kind.code else tensor.strings()
        return cls(tensor.dtype, tensor.shape, values)


def render_rows(outputs: Mapping[str, Output]) -> bytes:
    """Return the answer in rows: ``{"predictions": [...]}``.

    Raises:
        JsonFormError: An output has no rows, or the outputs differ in the number of rows.
    """
    _check_any(outputs)
    rows: int | None = None
    for alias, output in sorted(outputs.items()):
        if not output.shape:
            raise JsonFormError(f"Tensor name: {alias} has no shape information ")
        size = output.shape[0]
        if rows not in (None, size):
            raise JsonFormError(f"Tensor name: {alias} has inconsistent batch size: {size} expecting: {rows}")
        rows = size
    if not rows:
        return b'{\n    "predictions": []\n}'
    written = _Writer()
    written.add('{\n    "predictions": [')
    columns = [_Column(alias, output) for alias, output in sorted(outputs.items())]
    if len(columns) == 1:
        written.add_all(columns[0].written(_rows_layout(columns[0].shape, ", "), 0, columns[0].count))
    else:
        keys = [f"            {quote(alias)}: " for alias in sorted(outputs)]
        for number, row in enumerate(_joined_rows(columns, rows)):
            items = ",\n".join(map("".join, zip(keys, row, strict=True)))
            written.add(f"{',' if number else ''}\n        {{\n{items}\n        }}")
    written.add("\n    ]\n}")
    return written.content()


def render_columns(outputs: Mapping[str, Output]) -> bytes:
    """Return the answer in columns: ``{"outputs": ...}``.

    Raises:
        JsonFormError: ``outputs`` is empty.
    """
    _check_any(outputs)
    written = _Writer()
    written.add('{\n    "outputs": ')
    single = len(outputs) == 1
    for index, (alias, output) in enumerate(sorted(outputs.items())):
        if not single:
            written.add(f"{',' if index else '{'}\n        {quote(alias)}: ")
        column = _Column(alias, output)
        written.add_all(column.written(_indented(len(column.shape), 4 if single else 8), 0, column.count))
    written.add("\n}" if single else "\n    }\n}")
    return written.content()


def _check_any(outputs: Mapping[str, Output]) -> None:
    if not outputs:
        raise JsonFormError("Cannot convert empty tensor map to JSON")


class _Writer:
    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    def add(self, text: str) -> None:
        self._buffer.write(text.encode("utf-8", "surrogateescape"))

    def add_all(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.add(text)

    def content(self) -> bytes:
        return self._buffer.getvalue()


@dataclass(frozen=True, slots=True)
class _Layout:
    """The text around the elements of a tensor.

    Args:
        opening: The text before the first element.
        between: The text between two elements, by the number of lists that end between them.
        closing: The text after the last element.
    """

    opening: str
    between: tuple[str, ...]
    closing: str


def _line(rank: int) -> _Layout:
    """Return the layout of a tensor on one line."""
    return _Layout("[" * rank, tuple("]" * ends + ", " + "[" * ends for ends in range(rank)), "]" * rank)


def _rows_layout(shape: Sequence[int], separator: str) -> _Layout:
    """Return the layout of a tensor's rows, each on its own line, with ``separator`` between them."""
    row = _line(len(shape) - 1)
    return _Layout(row.opening, (*row.between, row.closing + separator + row.opening), row.closing)


def _indented(rank: int, margin: int) -> _Layout:
    """Return the layout with each element on its own line, as RapidJSON's PrettyWriter writes it."""
    margins = [" " * (margin + 4 * level) for level in range(rank + 1)]
    opening = [f"[\n{margins[level + 1]}" for level in range(rank)]
    closing = [f"\n{margins[level]}]" for level in range(rank)]
    between = tuple(
        "".join(reversed(closing[rank - ends :])) + f",\n{margins[rank - ends]}" + "".join(opening[rank - ends :])
        for ends in range(rank)
    )
    return _Layout("".join(opening), between, "".join(reversed(closing)))


class _Column:
    """An output whose elements are converted to text in pieces. A list without elements counts as an element."""

    def __init__(self, alias: str, output: Output) -> None:
        self.shape = output.shape[: output.shape.index(0)] if 0 in output.shape else output.shape
        self.count = math.prod(self.shape)
        self._is_empty = 0 in output.shape
        self._output = output
        strings = output.values if output.dtype == STRING else []
        self.step = (
            max(min(_PIECE, _PIECE_BYTES * len(strings) // (sum(map(len, strings)) + 1)), 1) if strings else _PIECE
        )
        self._as_bytes = alias.endswith(_BYTES_SUFFIX)

    def written(self, layout: _Layout, start: int, stop: int) -> Iterator[str]:
        """Yield the text of the elements from ``start`` to ``stop``, or of an empty list if the range is empty."""
        yield layout.opening
        for first in range(start, stop, self.step):
            last = min(first + self.step, stop)
            texts = self._texts(first, last)
            gaps = list(layout.between[:1]) * (last - first)
            for ends, text in enumerate(layout.between[1:], 1):
                stride = math.prod(self.shape[len(self.shape) - ends :])
                gaps[-first % stride :: stride] = [text] * len(range(-first % stride, last - first, stride))
            if first == start:
                gaps[:1] = [""]
            yield "".join(itertools.chain.from_iterable(zip(gaps, texts, strict=True)))
        yield layout.closing

    def _texts(self, start: int, stop: int) -> list[str]:
        if self._is_empty:
            return ["[]"] * (stop - start)
        dtype = self._output.dtype
        values: Any = self._output.values[start:stop]
        if dtype == STRING:
            if self._as_bytes:
                return [f'{{"{_BASE64}": "{base64.b64encode(value).decode()}"}}' for value in values]
            return [quote(value.decode("utf-8", "surrogateescape")) for value in values]
        if dtype == BOOL:
            return ["true" if value else "false" for value in values]
        code = KINDS[dtype].code
        return decimals(values, single=code == "f") if code in {"f", "d"} else list(map(str, values))


def _joined_rows(columns: Sequence[_Column], rows: int) -> Iterator[tuple[str, ...]]:
    """Yield the text of each row, for all columns together."""
    step = max(min(column.step * rows // max(column.count, 1) for column in columns), 1)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        texts = []
        for column in columns:
            width = column.count // rows
            layout = _rows_layout(column.shape, _ROW_END)
            texts.append("".join(column.written(layout, first * width, last * width)).split(_ROW_END))
        yield from zip(*texts, strict=True)
