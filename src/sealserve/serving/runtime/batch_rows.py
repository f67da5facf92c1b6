"""Determines which rows of a batch's outputs belong to which request, as far as shapes show it.

An output is split only if its shape does not depend on the values of other requests:

1. Its first dimension is the number of rows of the batch, and not by chance. The signature does not fix it (unless it
   also fixes the first dimension of an input), and the model does not compute the number of rows, as ``tf.where`` does.
2. Each other dimension is a size that the signature declares, or a size of an input's row. A counterexample is the
   width of ``tf.sequence_mask``: it is the maximum length in the whole batch, and would reveal one user's input to
   another user.
3. Its rows have had the same shape whenever the inputs' rows had the same shapes.

If an output violates a rule, its requests run one by one, and later requests for the same outputs do not share a batch.
TensorFlow Serving checks only the first rule, and fails all requests of the batch.

Shapes cannot show whether the *values* of a row depend on other rows (for example, with ``tf.sort`` over the batch).

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
"""Maximum number of remembered combinations of outputs and shapes, so that clients cannot fill the memory."""


class BatchRows:
    """The knowledge about the outputs of a model.

    Args:
        model: Provides its signatures and its graph.
    """

    def __init__(self, model: Batchable) -> None:
        self._model = model
        self._shapes: dict[tuple[_Fetches, _Rows], _Rows] = {}
        self._apart: set[_Fetches | tuple[_Fetches, _Rows]] = set()

    def without_rows(self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint]) -> str | None:
        """Return why an output lacks a row for each row of the inputs, as far as the model shows it, or None."""
        if any(map(self._model.counts_rows, fetches)):
            return "The values of the input tensors decide how many rows an output tensor has"
        fixed = {_first(self._model.declared_shape(feed)) for feed in feeds}
        if any(_first(self._model.declared_shape(fetch)) not in {None, *fixed} for fetch in fetches):
            return "The signature fixes the 0th dimension of an output tensor"
        return None

    def may_share(self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], inputs: Sequence[Tensor]) -> bool:
        """Return whether requests for ``fetches`` may share a batch, given rows like the rows of ``inputs``."""
        key = _identity(fetches)
        if key in self._apart or (key, _rows_of(inputs)) in self._apart:
            return False
        return self.without_rows(feeds, fetches) is None

    def check(
        self, fetches: Sequence[Endpoint], inputs: Sequence[Tensor], outputs: Sequence[Tensor], rows: int
    ) -> str | None:
        """Return why ``outputs`` cannot be split by row, or None if they can. The result is remembered.

        Args:
            fetches: The requested outputs.
            inputs: The inputs of the run: the joined inputs of all requests.
            outputs: The outputs of the run.
            rows: The number of rows of the batch.
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
        outputs: The outputs of a batch. Rows after the last request's rows are dropped.
        rows: The number of rows of each request.
    """
    ends = [0]
    for count in rows:
        ends.append(ends[-1] + count)
    return [[output.rows(start, stop) for output in outputs] for start, stop in pairwise(ends)]


def join(library: Library, parts: Sequence[Sequence[Tensor]], rows: Sequence[int]) -> list[Tensor]:
    """Join the outputs of a request that was split.

    Args:
        library: TensorFlow.
        parts: The outputs of each part.
        rows: The number of rows of each part.

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
    """Return why an output of a batch does not have a row for each row of the batch, or None if it does."""
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
    """Return whether each size of a row is declared, or is a size of an input's row."""
    expected = declared[1:] if declared is not None and len(declared) == len(row) + 1 else (None,) * len(row)
    return all(size == wanted or (wanted is None and size in sizes) for size, wanted in zip(row, expected, strict=True))


def _identity(fetches: Sequence[Endpoint]) -> _Fetches:
    return tuple((fetch.operation, fetch.index) for fetch in fetches)


def _rows_of(tensors: Sequence[Tensor]) -> _Rows:
    return tuple(tensor.shape[1:] for tensor in tensors)
