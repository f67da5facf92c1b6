"""Which rows of a batch's outputs belong to which request, as far as shapes can show it.

An output is cut apart only where its shape does not depend on the values of other requests:

1. Its first dimension is the number of rows of the batch, and not by chance: the signature does not fix it (unless it
   fixes that of an input too), and it is not a number of rows that the model counts, as ``tf.where`` does.
2. Each other dimension is a size that the signature declares, or a size of an input's row. The width of
   ``tf.sequence_mask``, for example, is the greatest length of the whole batch: it would tell one user about another
   user's input.
3. It has had the same shape of a row whenever the inputs had the same shapes of a row.

Where an output breaks a rule, its requests run one by one, and later requests for the same outputs do not share a
batch. TensorFlow Serving checks only the first rule, and fails all requests of the batch.

Shapes cannot show whether the *values* of a row depend on other rows (``tf.sort`` over the batch, for example).

Source: tensorflow/serving, ``batching/batching_session.cc`` (``SplitOutputTensors``): the first rule and its messages.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.libtensorflow import Endpoint, Library
from sealserve.serving.runtime.session import Batchable, DeclaredShape
from sealserve.serving.runtime.tensors import Tensor

_Fetches = tuple[tuple[int | None, int], ...]
_Rows = tuple[tuple[int, ...], ...]

_REMEMBERED: Final = 1024
"""How many combinations of outputs and shapes are remembered. The limit keeps clients from filling the memory."""


class BatchRows:
    """What is known about the outputs of a model.

    Args:
        model: What its signatures and its graph show.
    """

    def __init__(self, model: Batchable) -> None:
        self._model = model
        self._shapes: dict[tuple[_Fetches, _Rows], _Rows] = {}
        self._apart: set[_Fetches | tuple[_Fetches, _Rows]] = set()

    def without_rows(self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint]) -> str | None:
        """Return why an output has no row for each row of the inputs, as far as the model shows it, or None."""
        if any(map(self._model.counts_rows, fetches)):
            return "The values of the input tensors decide how many rows an output tensor has"
        fixed = {_first(self._model.declared_shape(feed)) for feed in feeds}
        if any(_first(self._model.declared_shape(fetch)) not in {None, *fixed} for fetch in fetches):
            return "The signature fixes the 0th dimension of an output tensor"
        return None

    def may_share(self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], inputs: Sequence[Tensor]) -> bool:
        """Whether requests for ``fetches`` with rows like those of ``inputs`` may share a batch."""
        key = _identity(fetches)
        if key in self._apart or (key, _rows_of(inputs)) in self._apart:
            return False
        return self.without_rows(feeds, fetches) is None

    def check(
        self, fetches: Sequence[Endpoint], inputs: Sequence[Tensor], outputs: Sequence[Tensor], rows: int
    ) -> str | None:
        """Return why ``outputs`` cannot be cut apart by row, or None where they can; remember it.

        Args:
            fetches: The outputs that were asked for.
            inputs: What the run was given: the inputs of all requests, joined.
            outputs: What it returned.
            rows: The rows of the batch.
        """
        key, row = _identity(fetches), _rows_of(inputs)
        reason = next(filter(None, (not_by_row(output.shape, rows) for output in outputs)), None)
        if reason is not None:
            self._remember(key)
            return reason
        found = _rows_of(outputs)
        if len(self._shapes) >= _REMEMBERED:
            self._shapes.clear()
        if self._shapes.setdefault((key, row), found) != found:
            self._remember(key)
            return "The shape of the output tensors depends on the values of the input tensors"
        sizes = {size for shape in row for size in shape}
        if not all(
            map(lambda fetch, shape: _is_explained(shape, self._model.declared_shape(fetch), sizes), fetches, found)
        ):
            self._remember((key, row))
            return "The output tensors have dimensions that neither the signature nor the input tensors have"
        return None

    def _remember(self, key: _Fetches | tuple[_Fetches, _Rows]) -> None:
        if len(self._apart) >= _REMEMBERED:
            self._apart.clear()
        self._apart.add(key)


def cut(outputs: Sequence[Tensor], rows: Sequence[int]) -> list[list[Tensor]]:
    """Return, for each request, its rows of each output.

    Args:
        outputs: The outputs of a batch. Rows behind those of the last request are dropped.
        rows: How many rows each request has.
    """
    ends = [0]
    for count in rows:
        ends.append(ends[-1] + count)
    return [[output.rows(start, stop) for output in outputs] for start, stop in pairwise(ends)]


def join(library: Library, parts: Sequence[Sequence[Tensor]], rows: Sequence[int]) -> list[Tensor]:
    """Return the outputs of a request that was split.

    Args:
        library: TensorFlow.
        parts: The outputs of each part.
        rows: How many rows each part has.

    Raises:
        RequestError: `request.batch-output`: An output of a part does not have as many rows as the part, or the parts
            differ in type or in the shape of a row.
    """
    for part, count in zip(parts, rows, strict=True):
        for output, first in zip(part, parts[0], strict=True):
            if reason := not_by_row(output.shape, count):
                raise RequestCode.BATCH_OUTPUT.error(reason)
            if (output.dtype, output.shape[1:]) != (first.dtype, first.shape[1:]):
                raise RequestCode.BATCH_OUTPUT.error(
                    "The parts of a large request have output tensors of different types or shapes"
                )
    return [Tensor.joined(library, column) for column in zip(*parts, strict=True)]


def not_by_row(shape: Sequence[int], rows: int) -> str | None:
    """Return why an output of a batch does not have a row for each row of the batch, or None where it has."""
    if not shape:
        return "Batched output tensor has 0 dimensions"
    if shape[0] != rows:
        return (
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input"
            " tensors"
        )
    return None


def _first(declared: DeclaredShape) -> int | None:
    return declared[0] if declared else None


def _is_explained(row: Sequence[int], declared: DeclaredShape, sizes: set[int]) -> bool:
    """Whether each size of a row is declared, or a size of an input's row."""
    expected = declared[1:] if declared is not None and len(declared) == len(row) + 1 else (None,) * len(row)
    return all(size == wanted or (wanted is None and size in sizes) for size, wanted in zip(row, expected, strict=True))


def _identity(fetches: Sequence[Endpoint]) -> _Fetches:
    return tuple((fetch.operation, fetch.index) for fetch in fetches)


def _rows_of(tensors: Sequence[Tensor]) -> _Rows:
    return tuple(tensor.shape[1:] for tensor in tensors)
