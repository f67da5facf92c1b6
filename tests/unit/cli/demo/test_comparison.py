from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises

from sealserve.cli.codes import CliCode
from sealserve.cli.demo.comparison import TOLERANCE, Reference, _difference

NAN, INFINITE = float("nan"), float("inf")


def reference(*answers: dict[str, Any], smallest: float = 0.5) -> Reference:
    arrays = [{name: np.asarray(value) for name, value in answer.items()} for answer in answers]
    return Reference(signature="s", inputs=arrays, answers=arrays, smallest_difference=smallest, rate=1.0, threads=1)


def difference(left: Any, right: Any) -> float:
    return _difference({"y": np.asarray(left)}, {"y": np.asarray(right)})


def refused(expected: Reference, number: int, **outputs: Any) -> str:
    with raises(CliCode.DEMO_WRONG_ANSWER) as caught:
        expected.check(number, {name: np.asarray(value) for name, value in outputs.items()})
    assert caught.value.code == "demo.wrong-answer"
    return caught.value.message


def test_an_answer_within_the_tolerance_is_right() -> None:
    expected = reference({"y": [1.0, 2.0]}, {"y": [1.5, 2.5]})
    assert expected.tolerance == TOLERANCE * 0.5
    assert expected.check(0, {"y": np.array([1.0, 2.0])}) == 0
    assert expected.check(1, {"y": np.array([1.5, 2.504])}) == pytest.approx(0.004)


def test_a_wrong_answer_and_the_answer_to_another_input_are_refused() -> None:
    expected = reference({"y": [1.0, 2.0]}, {"y": [1.5, 2.5]})
    message = refused(expected, 0, y=[1.0, 2.0051])
    assert message == (
        "The answer to request 0 differs from TensorFlow's answer: expected a difference of at most 0.005, got 0.0051."
    )
    assert "got 0.5." in refused(expected, 0, y=[1.5, 2.5])


def test_the_outputs_must_be_the_models() -> None:
    expected = reference({"y": [1.0], "z": [1.0]})
    assert refused(expected, 0, y=[1.0]) == (
        "The answer to request 0 has the wrong outputs: expected ['y', 'z'], got ['y']."
    )
    assert "got ['x', 'y', 'z']" in refused(expected, 0, y=[1.0], z=[1.0], x=[1.0])


@pytest.mark.parametrize("wrong", [[NAN], [INFINITE], [[1.0]], [1.0, 1.0], []])
@pytest.mark.parametrize("name", ["first", "second"])
def test_a_wrong_output_is_found_beside_a_right_output(name: str, wrong: list[Any]) -> None:
    expected = reference({"first": [1.0], "second": [1.0]})
    assert "differs" in refused(expected, 0, **{"first": [1.0], "second": [1.0], name: wrong})


def test_nan_and_infinity_are_equal_to_themselves() -> None:
    assert difference([NAN, INFINITE, 1.0], [NAN, INFINITE, 1.0]) == 0
    assert difference([NAN], [1.0]) == difference([INFINITE], [-INFINITE]) == INFINITE
    assert difference([], []) == 0


def test_texts_are_equal_or_not() -> None:
    cat, dog = np.array([b"cat"], object), np.array([b"dog"], object)
    assert difference(cat, cat.copy()) == 0
    assert difference(cat, dog) == INFINITE


def test_where_no_number_differs_answers_must_be_equal() -> None:
    expected = reference({"y": ["cat"]}, {"y": ["dog"]}, smallest=INFINITE)
    assert expected.tolerance == 0
    assert expected.check(0, {"y": np.array(["cat"])}) == 0
    assert "at most 0, got" in refused(expected, 0, y=["dog"])
    assert "differs" in refused(expected, 0, y=["cat", "cat"])


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (np.uint8(0), np.uint8(255), 255.0),
        (np.array([True]), np.array([False]), 1.0),
        (np.array([1 + 1j]), np.array([1 + 3j]), 2.0),
        (np.array([1], np.float16), np.array([1.5], np.float16), 0.5),
    ],
)
def test_numbers_of_any_type(left: Any, right: Any, expected: float) -> None:
    assert difference(left, right) == expected
