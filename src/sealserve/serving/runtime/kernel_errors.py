"""Error messages of TensorFlow's operations, without parts that they quote from a request.

An operation's message may quote an input. So a message leaves the process only if it matches one of `kernel_texts`, of
which every part is known. Shapes, sizes and names of the model stay, and values become ``<hidden>``. For any other
message, only the status and the name of the operation are passed on.
"""

import re
from typing import Final

from sealserve.serving.runtime.kernel_texts import TEXTS
from sealserve.serving.runtime.libtensorflow import TensorFlowError

_PARTS: Final = {
    "{shape}": r"\[[\d,?]*\]",
    "{size}": r"-?\d+",
    "{name}": r"[\w./<>-]*",
    "{device}": r"[\w/:]+",
    "{number}": r"(-?\d+)",
    "{value}": r"(.*)",
}
"""The placeholders in a message, and their patterns. The groups, ``number`` and ``value``, are hidden."""


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split("(" + "|".join(map(re.escape, _PARTS)) + ")", text)
    return re.compile("".join(_PARTS.get(part, re.escape(part)) for part in parts), re.DOTALL)


_PATTERNS: Final = tuple(map(_pattern, TEXTS))
_NODE: Final = r"\{\{node [\w./<>-]+\}\}"
_WHERE: Final = re.compile(
    r"\n\t \[\[(?:\{\{function_node [\w./<>-]+\}\})?"
    rf"(?:(?P<nodes>{_NODE}(?:, {_NODE})*)|(?P<name>[\w./<>-]+))\]\]\Z"
)
"""The last line, which TensorFlow itself adds. A similar line further up may be part of a value."""
_BRACES: Final = re.compile(r"\{\{node |\}\}")
HIDDEN: Final = "<hidden>"


def told(error: TensorFlowError, signature: str) -> str:
    """Return the text of ``error`` that a client may see: TensorFlow's message, or its status and place."""
    where = _WHERE.search(error.text)
    text, line = (error.text[: where.start()], where.group()) if where else (error.text, "")
    for pattern in _PATTERNS:
        found = pattern.fullmatch(text)
        if found is None:
            continue
        for group in range(pattern.groups, 0, -1):
            text = text[: found.start(group)] + HIDDEN + text[found.end(group) :]
        return text + line
    at = f" at {_BRACES.sub('', where['nodes'] or where['name'])}" if where else ""
    return f"TensorFlow could not compute the signature {signature!r}: {error.status.name}{at}"
