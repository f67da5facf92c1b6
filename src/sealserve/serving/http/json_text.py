"""JSON as text: strings and numbers in the form of RapidJSON and TensorFlow Serving.

Source: tensorflow/serving, ``util/json_tensor.cc`` (``WriteDecimal``); RapidJSON, ``writer.h``.
"""

import math
from array import array
from collections.abc import Sequence
from typing import Final

_NOT_FINITE: Final = {"nan.0": "NaN", "-nan.0": "NaN", "inf.0": "Infinity", "-inf.0": "-Infinity"}


def decimals(values: Sequence[float] | memoryview, *, single: bool) -> list[str]:
    """Return numbers as TensorFlow Serving writes them: with six digits if they are exact, else with enough digits."""
    code, digits = ("f", 9) if single else ("d", 17)
    count = len(values)
    found = (("%g " * count) % tuple(values)).split()
    inexact = [
        index
        for index, (value, again) in enumerate(zip(values, array(code, map(float, found)), strict=True))
        if value != again
    ]
    longer = ((f"%.{digits}g " * len(inexact)) % tuple([values[index] for index in inexact])).split()
    for index, text in zip(inexact, longer, strict=True):
        found[index] = text
    found = [text if "." in text or "e" in text else f"{text}.0" for text in found]
    if not math.isfinite(sum(values)):
        return [_NOT_FINITE.get(text, text) for text in found]
    return found


_ESCAPES: Final = {
    **{code: f"\\u{code:04X}" for code in range(0x20)},
    **{
        ord(plain): escape
        for plain, escape in zip('"\\\b\f\n\r\t', ('\\"', r"\\", r"\b", r"\f", r"\n", r"\r", r"\t"), strict=True)
    },
}


def quote(text: str) -> str:
    """Return a string as JSON in RapidJSON's form: only characters that must be escaped are escaped."""
    return f'"{text.translate(_ESCAPES)}"'
