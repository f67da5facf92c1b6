from typing import Any

import numpy as np
import pytest

from sealserve.model.optimization.agreement import Agreement, Comparison, IncomparableError


def compared(*batches: tuple[Any, Any], dtype: str = "float32") -> Agreement:
    comparison = Comparison()
    for original, optimized in batches:
        comparison.add(np.asarray(original, dtype), np.asarray(optimized, dtype))
    return comparison.result()


def test_classes_are_compared_row_by_row_over_all_batches() -> None:
    found = compared(([[0.1, 0.9], [0.8, 0.2]], [[0.2, 0.8], [0.4, 0.6]]), ([[0.3, 0.7]], [[0.3, 0.7]]))
    assert found.top1 == pytest.approx(2 / 3)
    assert (found.rows, found.top5) == (3, None)
    assert found.max_difference == pytest.approx(0.4)
    assert found.mean_difference == pytest.approx((0.1 + 0.1 + 0.4 + 0.4) / 6)
    assert found.largest == pytest.approx(0.9)


def test_the_five_highest_classes_are_compared_as_a_set() -> None:
    original = np.arange(8.0)[None, :]
    swapped = original.copy()
    swapped[0, 2], swapped[0, 3] = 3, 2  # one of the highest five leaves, another one enters
    found = compared((original, swapped))
    assert (found.top1, found.top5) == (1.0, 0.8)


def test_values_that_are_not_floating_must_be_equal() -> None:
    found = compared(([1, 2, 3, 4], [1, 2, 3, 5]), dtype="int64")
    assert (found.top1, found.max_difference, found.top5) == (0.75, 1.0, None)
    found = compared(([b"cat", b"dog"], [b"cat", b"cow"]), dtype="object")
    assert (found.top1, found.max_difference, found.largest) == (0.5, None, None)


def test_a_number_per_row_has_differences_only() -> None:
    found = compared(([[1.0], [2.0]], [[1.0], [2.5]]))
    assert (found.rows, found.top1, found.max_difference) == (2, None, 0.5)


@pytest.mark.parametrize(
    ("original", "optimized", "reason"),
    [
        ([[np.nan, 1.0]], [[np.nan, 1.0]], "its output proves nothing"),
        ([[np.inf, 1.0]], [[np.inf, 1.0]], "its output proves nothing"),
        ([[1.0, 1.0]], [[np.nan, 1.0]], "where the original returns a number"),
        ([[1.0, 1.0]], [[np.inf, 1.0]], "where the original returns a number"),
        ([[1.0, 1.0]], [[1.0]], r"expected float32 of shape \[1, 2\], got float32 of shape \[1, 1\]"),
    ],
)
def test_outputs_that_prove_nothing_are_an_error(original: Any, optimized: Any, reason: str) -> None:
    with pytest.raises(IncomparableError, match=reason):
        compared((original, optimized))


def test_another_type_is_an_error() -> None:
    with pytest.raises(IncomparableError, match="expected float32"):
        Comparison().add(np.zeros(2, np.float32), np.zeros(2, np.float64))


def test_no_rows_are_no_agreement() -> None:
    assert compared((np.zeros((0, 4)), np.zeros((0, 4)))) == Agreement(rows=0)
    assert Comparison().result() == Agreement(rows=0)
