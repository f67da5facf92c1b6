"""Comparison of the outputs of two models for the same inputs."""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Array = npt.NDArray[Any]
_CLASSES_RANK: Final = 2
_FIVE: Final = 5


class Agreement(BaseModel):
    """How far an output of the optimized model agrees with the same output of the original.

    Attributes:
        rows: The number of compared rows: the sum of the outputs' first dimensions.
        max_difference: Maximum absolute difference of a number. None for text.
        mean_difference: Mean absolute difference. None for text.
        largest: Maximum absolute number in the original's output, as a scale for the differences.
        top1: Share of rows with the same highest class, or for integers and text the share of equal values. None if the
            output has neither classes nor such values.
        top5: Share of the five highest classes that both models have in common. None with fewer than six classes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    max_difference: float | None = None
    mean_difference: float | None = None
    largest: float | None = None
    top1: float | None = None
    top5: float | None = None


class IncomparableError(Exception):
    """Two outputs cannot be compared. The text is the reason, as the end of a sentence."""


@dataclass(slots=True)
class Comparison:
    """The running comparison of one output."""

    rows: int = 0
    _numbers: int = 0
    _sum: float = 0.0
    _max: float = 0.0
    _largest: float = 0.0
    _discrete: bool = False
    _values: int = 0
    _top1: float = 0.0
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
        if not _is_floating(original):
            self._discrete = True
            self._values += original.size
            self._top1 += int(np.count_nonzero(original == optimized))
            if original.dtype.kind in "iub":
                self._add_numbers(original.astype(np.float64), optimized.astype(np.float64))
            return
        before, after = original.astype(np.float64), optimized.astype(np.float64)
        if not np.isfinite(before).all():
            raise IncomparableError("the original model returns infinity or NaN, so its output proves nothing")
        self._add_numbers(before, after)
        if before.ndim == _CLASSES_RANK and before.shape[1] > 1:
            self._add_classes(before, after)

    def result(self) -> Agreement:
        """Return the agreement of all batches."""
        shares = self._values if self._discrete else self.rows if self._classes else 0
        return Agreement(
            rows=self.rows,
            max_difference=self._max if self._numbers else None,
            mean_difference=self._sum / self._numbers if self._numbers else None,
            largest=self._largest if self._numbers else None,
            top1=self._top1 / shares if shares else None,
            top5=self._top5 / shares if shares and self._classes and min(self._classes) > _FIVE else None,
        )

    def _add_numbers(self, before: Array, after: Array) -> None:
        if not np.isfinite(after).all():
            raise IncomparableError("the optimized model returns infinity or NaN where the original returns a number")
        if before.size:
            difference = np.abs(before - after)
            self._numbers += before.size
            self._sum += float(difference.sum())
            self._max = max(self._max, float(difference.max()))
            self._largest = max(self._largest, float(np.abs(before).max()))

    def _add_classes(self, before: Array, after: Array) -> None:
        self._classes.add(before.shape[1])
        self._top1 += int(np.count_nonzero(before.argmax(1) == after.argmax(1)))
        if before.shape[1] > _FIVE:
            highest = (np.argsort(values, axis=1, kind="stable")[:, -_FIVE:] for values in (before, after))
            self._top5 += math.fsum(np.intersect1d(a, b).size / _FIVE for a, b in zip(*highest, strict=True))


def _is_floating(values: Array) -> bool:
    """Return whether values are floating-point numbers. The kind of ml_dtypes' bfloat16 is "V"."""
    return values.dtype.kind == "f" or "float" in values.dtype.name
