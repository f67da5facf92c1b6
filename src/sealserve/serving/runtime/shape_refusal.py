"""What a guard says of a request that it has refused."""

import re
from typing import Final

from sealserve.serving.runtime.libtensorflow import TensorFlowError
from sealserve.serving.runtime.shape_guards import MARK

_REFUSAL: Final = re.compile(
    r"(?:\{\{function_node [^{}\n]*\}\} )*assertion failed: \[(?P<shape>[\d .]*)\]"
    r"\n\t \[\[(?:\{\{function_node [^{}\n]*\}\})?(?:\{\{node )?(?P<operation>[^{}\n]*?)"
    rf"/{MARK}/\d+/(?:other/)?(?P<need>[a-z]+)(?P<sizes>[\d-]*)(?:\}}\}})?\]\](?:\n\t \[\[[^\n]*\]\])*"
)


def refusal(error: TensorFlowError) -> str | None:
    """Return what a guard says, or None where the error is of another operation.

    The text has a shape and names of the model, and nothing else of a request.
    """
    found = _REFUSAL.fullmatch(error.text)
    if found is None:
        return None
    shape = "[" + found["shape"].strip().replace(" ", ",") + "]"
    sizes = [int(size) for size in found["sizes"].split("-") if size]
    words = {
        "rank": lambda: f"a tensor with {_either(sizes)} dimensions",
        "least": lambda: "a tensor of at least [" + ",".join(str(size) if size else "?" for size in sizes) + "]",
        "elements": lambda: f"a tensor with {sizes[0]} elements" if sizes[0] > 1 else "a tensor with one element",
        "updates": lambda: "a tensor with at most one dimension less than its indices have",
        "from": lambda: f"sizes of at least {sizes[0]}",
        "fits": lambda: "sizes of a smaller tensor",
    }[found["need"]]
    return f"the operation {found['operation']!r} needs {words()}, and would get one of the shape {shape}"


def _either(sizes: list[int]) -> str:
    if len(sizes) > 1 and sizes == list(range(sizes[0], sizes[-1] + 1)):
        return f"{sizes[0]} to {sizes[-1]}"
    return " or ".join(map(str, sizes))
