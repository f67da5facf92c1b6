"""Comparison of the outputs of two models for the same inputs."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Array = npt.NDArray[Any]
_CLASSES_RANK: Final = 2
"""The least rank of an output with classes. They are in the last dimension, for each picture, token or pixel."""
_FIVE: Final = 5
_CHUNK: Final = 2**22
"""Number of scores whose classes are compared at once. It limits the memory for outputs with classes for each pixel."""


class Agreement(BaseModel):
    """How far an output of the optimized model agrees with the same output of the original.

    Attributes:
        rows: The number of compared rows: the sum of the outputs' first dimensions.
        max_difference: Maximum absolute difference of a number. None for text.
        mean_difference: Mean absolute difference. None for text.
        largest: Maximum absolute number in the original's output, as a scale for the differences.
        relative_difference: ``mean_difference`` as a share of ``largest``, for floating-point and complex numbers only.
            If the original returns only zeros, as a share of ``max_difference``.
        top1: Share of the same highest class in the last dimension, or for integers and text the share of equal values.
            None if the output has neither two classes nor such values.
        top5: Share of the five highest classes that both models have in common. None with fewer than six classes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    max_difference: float | None = None
    mean_difference: float | None = None
    largest: float | None = None
    relative_difference: float | None = None
    top1: float | None = None
    top5: float | None = None


class IncomparableError(Exception):
    """Two outputs cannot be compared. The text is the reason, as the end of a sentence."""


@dataclass(slots=True)
class Comparison:
    """The running comparison of one output.

    Attributes:
        rows: The number of rows until now.
        values: The number of compared numbers or texts until now. It can be 0 although there are rows.
    """

    rows: int = 0
    values: int = 0
    _numbers: int = 0
    _sum: float = 0.0
    _max: float = 0.0
    _largest: float = 0.0
    _discrete: bool = False
    _equal: int = 0
    _classified: int = 0
    _top1: int = 0
    _top5: float = 0.0
    _classes: set[int] = field(default_factory=set)

    def add(self, original: Array, optimized: Array) -> None:
        """Add a batch of both models' outputs.

        Raises:
            IncomparableError: The types or shapes differ, or the original has a number that is not finite.
        """
        if original.dtype != optimized.dtype or original.shape != optimized.shape:
            raise IncomparableError(
                f"expected {original.dtype} of shape {list(original.shape)}, got {optimized.dtype} of shape "
                f"{list(optimized.shape)}"
            )
        self.rows += original.shape[0] if original.ndim else 1
        self.values += original.size
        if original.dtype.kind == "c":  # each complex number is two numbers
            self._add_floating(_parts(original), _parts(optimized))
        elif _is_floating(original):
            before, after = original.astype(np.float64), optimized.astype(np.float64)
            self._add_floating(before, after)
            if before.ndim >= _CLASSES_RANK and before.shape[-1] > 1 and before.size:
                self._add_classes(before.reshape(-1, before.shape[-1]), after.reshape(-1, before.shape[-1]))
        else:
            self._discrete = True
            self._equal += int(np.count_nonzero(original == optimized))
            if original.dtype.kind in "iub":
                self._add_numbers(original.astype(np.float64), optimized.astype(np.float64))

    def result(self) -> Agreement:
        """Return the agreement of all batches."""
        mean = self._sum / self._numbers if self._numbers else None
        same, compared = (self._equal, self.values) if self._discrete else (self._top1, self._classified)
        return Agreement(
            rows=self.rows,
            max_difference=self._max if self._numbers else None,
            mean_difference=mean,
            largest=self._largest if self._numbers else None,
            relative_difference=None if mean is None or self._discrete else self._share_of_largest(mean),
            top1=same / compared if compared else None,
            top5=self._top5 / self._classified if self._classes and min(self._classes) > _FIVE else None,
        )

    def _share_of_largest(self, difference: float) -> float:
        scale = self._largest or self._max
        return min(difference / scale, sys.float_info.max) if scale else 0.0

    def _add_floating(self, before: Array, after: Array) -> None:
        if not np.isfinite(before).all():
            raise IncomparableError("the original model returns infinity or NaN, so its output proves nothing")
        self._add_numbers(before, after)

    def _add_numbers(self, before: Array, after: Array) -> None:
        if not np.isfinite(after).all():
            raise IncomparableError("the optimized model returns infinity or NaN where the original returns a number")
        if before.size:
            with np.errstate(over="ignore"):
                difference = np.abs(before - after)
                total = self._sum + float(difference.sum())
            if not np.isfinite(total):
                raise IncomparableError("the differences are too large for float64")
            self._numbers += before.size
            self._sum = total
            self._max = max(self._max, float(difference.max()))
            self._largest = max(self._largest, float(np.abs(before).max()))

    def _add_classes(self, before: Array, after: Array) -> None:
        """Compare the classes in each row of two matrices."""
        rows, classes = before.shape
        self._classes.add(classes)
        self._classified += rows
        self._top1 += int(np.count_nonzero(before.argmax(1) == after.argmax(1)))
        if classes > _FIVE:
            self._top5 += sum(_common_five(*chunk) for chunk in _chunks(before, after))


def _chunks(before: Array, after: Array) -> Iterator[tuple[Array, Array]]:
    step = max(1, _CHUNK // before.shape[1])
    for start in range(0, len(before), step):
        yield before[start : start + step], after[start : start + step]


def _common_five(before: Array, after: Array) -> float:
    """Return the sum of the rows' shares of common classes among the highest five."""
    first, second = (np.argsort(values, axis=1, kind="stable")[:, -_FIVE:] for values in (before, after))
    return int(np.count_nonzero(first[:, :, None] == second[:, None, :])) / _FIVE


def _parts(values: Array) -> Array:
    """Return the real and imaginary parts of complex numbers."""
    return np.stack([values.real, values.imag]).astype(np.float64)


def _is_floating(values: Array) -> bool:
    """Return whether values are floating-point numbers. The kind of ml_dtypes' bfloat16 is "V"."""
    return values.dtype.kind == "f" or "float" in values.dtype.name
