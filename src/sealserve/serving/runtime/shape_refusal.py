"""The error message of a guard that rejected a request."""

import re
from typing import Final

from sealserve.serving.runtime.libtensorflow import TensorFlowError
from sealserve.serving.runtime.shape_guards import MARK

_REFUSAL: Final = re.compile(
    r"(?:\{\{function_node [^{}\n]*\}\} )*assertion failed: \[(?P<shape>[\d .]*)\]"
    r"\n\t \[\[(?:\{\{function_node [^{}\n]*\}\})?(?:\{\{node )?(?P<operation>[^{}\n]*?)"
    rf"/{MARK}/\d+/(?P<need>rank|least|elements|updates|from|upto|fits)(?P<sizes>[\d-]*)"
    r"(?:\}\})?\]\](?:\n\t \[\[[^\n]*\]\])*"
)

_SIZES: Final = re.compile(r"(?<=-)-?\d+")
"""The numbers after a requirement, each after a hyphen. A negative number has a second hyphen."""


def refusal(error: TensorFlowError) -> str | None:
    """Return the message for a guard's error, or None if the error is of a different operation.

    The message contains a shape and names of the model, and no other data of a request.
    """
    found = _REFUSAL.fullmatch(error.text)
    if found is None:
        return None
    shape = "[" + found["shape"].strip().replace(" ", ",") + "]"
    sizes = [int(size) for size in _SIZES.findall(found["sizes"])]
    needed = _words(found["need"], sizes)
    return f"the operation {found['operation']!r} requires {needed}, got the shape {shape}"


def _words(need: str, sizes: list[int]) -> str:
    match need:
        case "rank":
            return f"a tensor with {_either(sizes)} dimensions"
        case "least":
            return "a tensor of at least [" + ",".join(str(size) if size else "?" for size in sizes) + "]"
        case "elements":
            return "a tensor with one element" if sizes == [1] else f"a tensor with {sizes[0]} elements"
        case "updates":
            return "a tensor with at most one dimension less than its indices"
        case "from" | "upto":
            return f"values of at {'least' if need == 'from' else 'most'} {sizes[0]}"
        case _:
            return "the sizes of a smaller tensor"


def _either(sizes: list[int]) -> str:
    if len(sizes) > 1 and sizes == list(range(sizes[0], sizes[-1] + 1)):
        return f"{sizes[0]} to {sizes[-1]}"
    return " or ".join(map(str, sizes))
