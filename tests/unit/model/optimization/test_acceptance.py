from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.model.codes import ModelCode
from sealserve.model.optimization.acceptance import MAX_RELATIVE_DIFFERENCE, Thresholds, check
from sealserve.model.optimization.agreement import Agreement
from sealserve.model.optimization.origin import COMMAND, SETTINGS, Options, Origin
from sealserve.model.optimization.report import Changes, Report
from sealserve.terms import Precision

NUMBER = Agreement(rows=4, max_difference=40.0, mean_difference=1.0, largest=100.0, relative_difference=0.01)
"""One number per row: it has no classes."""
CLASSES = NUMBER.model_copy(update={"top1": 1.0, "top5": 0.8})
TEXT = Agreement(rows=4, top1=0.5)


def accept(
    *outputs: Agreement,
    precision: Precision = Precision.BFLOAT16,
    options: Options = COMMAND,
    top1: float | None = None,
    top5: float | None = None,
    difference: float | None = None,
    relative_difference: float | None = None,
) -> None:
    thresholds = Thresholds(top1=top1, top5=top5, difference=difference, relative_difference=relative_difference)
    report = Report(
        original="0" * 64, precision=precision, sealserve="1", tensorflow="2", instructions="amx", seed=0, given=(),
        changes=Changes(
            nodes_before=2, nodes_after=1, batch_norms=0, bfloat16_nodes=1, bytes_before=2, bytes_after=1
        ),
        signatures={"serving": {f"y{number}": found for number, found in enumerate(outputs)}}, skipped={},
    )  # fmt: skip
    check(report, thresholds, Origin(name="models/m", digest="0" * 64, options=options))


def test_an_output_without_classes_has_a_criterion_by_default() -> None:
    accept(NUMBER)
    with raises(ModelCode.OPTIMIZATION_DIFFERS, match=r"the largest number: expected at most 0\.02, got 0\.03"):
        accept(NUMBER.model_copy(update={"relative_difference": 0.03}))
    with raises(ModelCode.OPTIMIZATION_DIFFERS, match=r"'y1' of 'serving'.*at most 0\.0001, got 0\.01 in 4 rows"):
        accept(NUMBER.model_copy(update={"relative_difference": 0.0}), NUMBER, precision=Precision.FLOAT32)
    accept(NUMBER, precision=Precision.FLOAT32, relative_difference=0.01)
    assert set(MAX_RELATIVE_DIFFERENCE) == set(Precision)


@pytest.mark.parametrize(
    ("output", "threshold", "option", "lacking"),
    [
        (NUMBER, {"top1": 0.5}, "--min-top1", "classes, integers or texts"),
        (NUMBER, {"top5": 0.5}, "--min-top5", "six or more classes"),
        (TEXT, {"difference": 50.0, "top1": 0.5}, "--max-difference", "numbers"),
        (TEXT, {"relative_difference": 1.0, "top1": 0.5}, "--max-relative-difference", "floating-point numbers"),
    ],
)
def test_a_given_threshold_that_applies_to_no_output_is_an_error(
    output: Agreement, threshold: dict[str, Any], option: str, lacking: str
) -> None:
    with raises(ModelCode.OPTIMIZATION_UNPROVEN, match=f"with {option}: no output has {lacking}"):
        accept(output, **threshold)
    setting = option.replace("--", "optimize_").replace("-", "_")
    with raises(ModelCode.OPTIMIZATION_UNPROVEN, match=f"with {setting}: no output has {lacking}"):
        accept(output, options=SETTINGS, **threshold)
    accept(output, CLASSES, **{**threshold, "top1": 0.0})  # it applies to one of the outputs


def test_a_minimum_of_zero_requires_nothing() -> None:
    accept(NUMBER, top1=0, top5=0)
    accept(TEXT, top1=0)
    with raises(ModelCode.OPTIMIZATION_DIFFERS, match=r"the same highest class or value: expected at least 0\.99"):
        accept(TEXT)


def test_each_threshold_applies_to_each_output() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"top5": 0.9}, r"common classes among the highest five: expected at least 0\.9, got 0\.8"),
        ({"difference": 39.0}, r"maximum difference: expected at most 39, got 40"),
    ]
    for thresholds, what in cases:
        with raises(ModelCode.OPTIMIZATION_DIFFERS, match=what) as caught:
            accept(NUMBER, CLASSES, options=SETTINGS, **thresholds)
        assert "(optimize_inputs), choose float32, or change optimize_" in (caught.value.hint or "")
        assert "models/m" in caught.value.message
    accept(NUMBER, CLASSES, top5=0.8, difference=40.0)
