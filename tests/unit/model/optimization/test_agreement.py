import sys
from typing import Any

import numpy as np
import pytest

from sealserve.model.optimization import agreement
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
    assert (found.rows, found.top1, found.max_difference, found.relative_difference) == (2, None, 0.5, 0.125)
    found = compared(([1.0, 2.0], [1.0, 2.5]))
    assert (found.rows, found.top1, found.relative_difference) == (2, None, 0.125)


@pytest.mark.parametrize("shape", [(6, 8), (2, 3, 8), (1, 2, 3, 8)])
def test_the_last_dimension_has_the_classes(shape: tuple[int, ...]) -> None:
    original = np.tile(np.arange(8.0), (6, 1))
    changed = original.copy()
    changed[0, 2], changed[0, 3] = 3, 2  # one of the highest five leaves
    changed[1, 0] = 9  # another highest class
    found = compared((original.reshape(shape), changed.reshape(shape)))
    assert found.top1 == pytest.approx(5 / 6)
    assert found.top5 == pytest.approx((0.8 + 0.8 + 4) / 6)


def test_many_classes_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_CHUNK", 20)
    rows = np.random.default_rng(0).random((7, 8))
    found = compared((rows, rows))
    assert (found.top1, found.top5) == (1.0, 1.0)


def test_batches_with_one_class_do_not_count_as_classes() -> None:
    found = compared((np.eye(3), np.eye(3)), ([[0.0]] * 9, [[1.0]] * 9))
    assert (found.rows, found.top1) == (12, 1.0)


def test_the_relative_difference_is_always_a_number() -> None:
    assert compared(([0.0, 0.0], [0.0, 0.0])).relative_difference == 0.0
    assert compared(([0.0, 0.0], [0.0, 1.0])).relative_difference == 0.5
    tiny = np.nextafter(0, 1)
    assert compared(([tiny], [1e300]), dtype="float64").relative_difference == sys.float_info.max
    assert compared(([1, 2], [1, 3]), dtype="int64").relative_difference is None


def test_complex_numbers_have_differences() -> None:
    found = compared(([[1 + 2j, 3j]], [[1 + 2j, 4j]]), dtype="complex64")
    assert (found.rows, found.top1, found.max_difference, found.relative_difference) == (1, None, 1.0, 0.25 / 3)
    with pytest.raises(IncomparableError, match="proves nothing"):
        compared(([complex("nan")], [complex("nan")]), dtype="complex64")


def test_differences_beyond_float64_are_an_error() -> None:
    with pytest.raises(IncomparableError, match="too large for float64"):
        compared(([1e308], [-1e308]), dtype="float64")


def test_rows_without_values_are_counted_apart() -> None:
    comparison = Comparison()
    comparison.add(np.zeros((3, 0, 4)), np.zeros((3, 0, 4)))
    assert (comparison.rows, comparison.values) == (3, 0)
    comparison.add(np.zeros((3, 2, 4)), np.zeros((3, 2, 4)))
    assert (comparison.rows, comparison.values) == (6, 24)


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
