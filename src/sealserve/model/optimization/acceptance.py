"""The decision whether an optimized model agrees enough with its original."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sealserve.model.codes import ModelCode
from sealserve.model.optimization.agreement import Agreement
from sealserve.model.optimization.origin import Origin
from sealserve.model.optimization.report import Report
from sealserve.terms import Precision

MIN_TOP1: Final = 0.99
MAX_RELATIVE_DIFFERENCE: Final[Mapping[Precision, float]] = {Precision.FLOAT32: 1e-4, Precision.BFLOAT16: 0.02}
"""The maximum without a given threshold. bfloat16 rounds each number to 8 bits, with a relative error of at most 1/256.
The mean error reaches 0.02 after about 30 layers. Decision 172 has the measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The smallest agreement with which a result is accepted. Each threshold applies to each output that has the value.

    A given threshold that applies to no output is an error. A minimum of 0 requires nothing, and is never an error.

    Args:
        top1: Minimum share of rows with the same highest class, and of equal integers and texts. None means 0.99.
        top5: Minimum share of the five highest classes in common, or None.
        difference: Maximum absolute difference of a number, or None.
        relative_difference: Maximum of `Agreement.relative_difference`. None means a maximum that depends on the
            precision.
    """

    top1: float | None = None
    top5: float | None = None
    difference: float | None = None
    relative_difference: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Criterion:
    """A value of an output, and its threshold.

    Args:
        option: Name of the option or setting.
        what: Name of the value.
        lacking: What an output lacks if it does not have the value.
        value: Returns the value.
        given: The threshold that the user chose, or None.
        default: The threshold otherwise.
        is_minimum: Whether the threshold is a minimum.
    """

    option: str
    what: str
    lacking: str
    value: Callable[[Agreement], float | None]
    given: float | None
    default: float | None = None
    is_minimum: bool = False

    @property
    def requires_something(self) -> bool:
        """Whether the user chose a threshold that some value could miss."""
        return self.given is not None and not (self.is_minimum and self.given == 0)


def check(report: Report, thresholds: Thresholds, origin: Origin) -> None:
    """Compare the agreement of each output with the thresholds.

    Args:
        report: The comparison.
        thresholds: The thresholds.
        origin: Names the model in messages.

    Raises:
        VerificationError: `model.optimization-differs`: An output misses a threshold.
        InputError: `model.optimization-unproven`: A given threshold applies to no output.
    """
    options = origin.options
    for criterion in _criteria(thresholds, report.precision, origin):
        limit = criterion.default if criterion.given is None else criterion.given
        found = [
            (signature, output, agreement.rows, value)
            for signature, output, agreement in report.agreements
            if (value := criterion.value(agreement)) is not None
        ]
        if limit is None:
            continue
        if not found and criterion.requires_something:
            raise ModelCode.OPTIMIZATION_UNPROVEN.error(
                f"{origin.name} cannot be compared with {criterion.option}: no output has {criterion.lacking}.",
                hint=f"Remove {criterion.option}, or use {options.difference} or {options.relative_difference}.",
            )
        for signature, output, rows, value in found:
            if not (value >= limit if criterion.is_minimum else value <= limit):
                raise ModelCode.OPTIMIZATION_DIFFERS.error(
                    f"The {report.precision} form of {origin.name} is not accepted: the output {output!r} of "
                    f"{signature!r}: {criterion.what}: expected at {'least' if criterion.is_minimum else 'most'} "
                    f"{limit:g}, got {value:.6g} in {rows} rows.",
                    hint=f"Compare with typical inputs ({options.inputs}), choose float32, or change "
                    f"{criterion.option}.",
                )


def _criteria(thresholds: Thresholds, precision: Precision, origin: Origin) -> Iterator[_Criterion]:
    options = origin.options
    yield _Criterion(
        option=options.top1, what="the same highest class or value", lacking="classes, integers or texts",
        value=lambda found: found.top1, given=thresholds.top1, default=MIN_TOP1, is_minimum=True,
    )  # fmt: skip
    yield _Criterion(
        option=options.top5, what="common classes among the highest five", lacking="six or more classes",
        value=lambda found: found.top5, given=thresholds.top5, is_minimum=True,
    )  # fmt: skip
    yield _Criterion(
        option=options.difference, what="maximum difference", lacking="numbers",
        value=lambda found: found.max_difference, given=thresholds.difference,
    )  # fmt: skip
    yield _Criterion(
        option=options.relative_difference, what="mean difference, as a share of the largest number",
        lacking="floating-point numbers", value=lambda found: found.relative_difference,
        given=thresholds.relative_difference, default=MAX_RELATIVE_DIFFERENCE[precision],
    )  # fmt: skip
