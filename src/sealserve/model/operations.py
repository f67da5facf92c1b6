"""Classes of TensorFlow's operations, by what an operation can reach: the content of ``operations.toml``.

Source: the operations' documentation and registration in tensorflow 2.21, ``tensorflow/core/ops/*.cc`` and
``tensorflow/core/api_def/base_api/``; their kernels in ``tensorflow/core/kernels/``. `make operations` compares the
file with TensorFlow's registry.
"""

import functools
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Final

TENSORFLOW_VERSION: Final = "2.21.0"
"""The version of TensorFlow whose operations are in ``operations.toml``."""


class Allowed(StrEnum):
    """Where in a model an operation is allowed."""

    ANYWHERE = "anywhere"
    LOADING = "while-loading"
    """Loading may run it, a request may not."""
    ASSETS = "from-assets"
    """Loading may run it on an asset file of the SavedModel; a request may not run it."""
    VARIABLES = "from-variables"
    """Loading may run it on the SavedModel's variables; a request may not run it."""
    UNUSED = "where-nothing-runs-it"
    """It may be in the graph if neither loading nor a request runs it."""
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationClass:
    """A group of operations that can reach the same resources.

    Args:
        name: The name of the class in the documentation.
        allowed: Where in a model the operations are allowed.
        does: The effect of an operation, as the rest of a sentence that begins with its name.
        why: The reason for the judgment.
        operations: Their names, sorted.
    """

    name: str
    allowed: Allowed
    does: str
    why: str
    operations: tuple[str, ...]


@functools.cache
def classes() -> tuple[OperationClass, ...]:
    """Return all classes. Each operation that TensorFlow registers is in exactly one class."""
    text = resources.files(__package__).joinpath("operations.toml").read_text("utf-8")
    return tuple(
        OperationClass(
            name=name,
            allowed=Allowed(entry["allowed"]),
            does=entry["does"],
            why=entry["why"],
            operations=tuple(entry["operations"].split()),
        )
        for name, entry in tomllib.loads(text).items()
    )


@functools.cache
def class_of() -> dict[str, OperationClass]:
    """Return the class of each operation that TensorFlow registers, by the operation's name."""
    return {operation: found for found in classes() for operation in found.operations}


_TEXT: Final = (
    r"TFText>.*|Sentencepiece.*Op|(Wordpiece|Whitespace|UnicodeScript|SplitMerge|FastWordpiece)Tokenize.*|"
    r"CaseFoldUTF8|NormalizeUTF8.*|RegexSplitWithOffsets|ConstrainedSequence|MaxSpanningTree.*|SentenceFragments"
)
_LIBRARIES: Final = (
    (_TEXT, "TensorFlow Text (tensorflow_text)"),
    (r"SimpleML.*", "TensorFlow Decision Forests (tensorflow_decision_forests)"),
    (r"Addons>.*", "TensorFlow Addons (tensorflow_addons)"),
    (r"TFRA>.*", "TensorFlow Recommenders Addons (tensorflow_recommenders_addons)"),
    (r"IO>.*", "TensorFlow I/O (tensorflow_io)"),
    (r".*TRT.*", "TensorRT, in TensorFlow for GPUs"),
)


def library_of(operation: str) -> str | None:
    """Return the library that is known to provide an operation that TensorFlow itself does not have, or None."""
    return next((library for pattern, library in _LIBRARIES if re.fullmatch(pattern, operation)), None)
