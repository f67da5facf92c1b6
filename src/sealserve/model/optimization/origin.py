"""What a person knows a model by, and the names of the options that a person can change."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The names of options or settings in messages.

    Args:
        inputs: Gives inputs for the comparison.
        top1: The minimum share of the same highest class.
        top5: The minimum share of the five highest classes in common.
        difference: The maximum difference.
        relative_difference: The maximum relative difference.
    """

    inputs: str
    top1: str
    top5: str
    difference: str
    relative_difference: str


COMMAND: Final = Options(
    inputs="--input NAME=@FILE",
    top1="--min-top1",
    top5="--min-top5",
    difference="--max-difference",
    relative_difference="--max-relative-difference",
)
"""The options of `sealserve model optimize`."""

SETTINGS: Final = Options(
    inputs="optimize_inputs",
    top1="optimize_min_top1",
    top5="optimize_min_top5",
    difference="optimize_max_difference",
    relative_difference="optimize_max_relative_difference",
)
"""The settings of a model in `sealserve.toml`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model of the owner. The optimized SavedModel may be a converted copy of it.

    Args:
        name: Its path, for messages.
        digest: Its digest, for the record.
        options: The names of options in messages.
    """

    name: str
    digest: str
    options: Options = COMMAND
