from pathlib import Path

import numpy as np
import pytest
from tests.harness.errors import raises
from tests.harness.tiny_model import half_plus_two, saved_model

from sealserve.cli.codes import CliCode
from sealserve.cli.demo.comparison import compute

pytestmark = pytest.mark.tensorflow


def test_each_request_has_an_input_and_an_answer_of_its_own(tmp_path: Path) -> None:
    reference = compute(saved_model(tmp_path / "model"), 10)
    assert reference.signature == "serving_default"
    values = [float(arrays["x"][0]) for arrays in reference.inputs]
    assert len(set(values)) == 10
    answers = [float(arrays["y"][0]) for arrays in reference.answers]
    np.testing.assert_allclose(answers, [half_plus_two(value) for value in values], rtol=1e-6)
    nearest = min(abs(one - other) for one in answers for other in answers if one is not other)
    assert reference.smallest_difference == pytest.approx(nearest)
    for number in range(10):
        assert reference.check(number, reference.answers[number]) == 0
    assert reference.rate > 0
    assert reference.threads > 0


def test_answers_that_do_not_depend_on_the_input_prove_nothing(tmp_path: Path) -> None:
    with raises(CliCode.DEMO_NOT_COMPARABLE, match="returns the same answer to different inputs") as caught:
        compute(saved_model(tmp_path / "model", constant=True), 3)
    assert caught.value.code == "demo.not-comparable"
    assert caught.value.hint == ("Use a model whose outputs depend on its inputs, or give other inputs with --input.")
