"""The correspondence between JSON values and elements of a tensor, in both directions.

Source: tensorflow/serving, ``util/json_tensor.cc`` (``AddValueToTensor``).
"""

from dataclasses import dataclass
from typing import Final, Literal

from sealserve.serving.runtime.protos import DataType

STRING: Final = DataType.Value("DT_STRING")
BOOL: Final = DataType.Value("DT_BOOL")


@dataclass(frozen=True, slots=True)
class Kind:
    """The conversion of JSON values to a tensor's elements.

    Args:
        code: The format of an element in the tensor's memory, in the notation of `array` and `memoryview`; empty for
            strings.
        whole: Whether the elements are integers.
        least: The smallest integer that is accepted.
        greatest: The largest integer that is accepted.
    """

    code: Literal["", "f", "d", "b", "B", "h", "H", "i", "I", "q", "Q"]
    whole: bool = False
    least: int = 0
    greatest: int = 0


KINDS: Final = {
    DataType.Value(name): kind
    for name, kind in {
        "DT_FLOAT": Kind("f"),
        "DT_DOUBLE": Kind("d"),
        "DT_INT32": Kind("i", True, -(2**31), 2**31 - 1),
        "DT_INT16": Kind("h", True, -(2**31), 2**31 - 1),
        "DT_INT8": Kind("b", True, -(2**31), 2**31 - 1),
        "DT_UINT8": Kind("B", True, -(2**31), 2**31 - 1),
        "DT_INT64": Kind("q", True, -(2**63), 2**63 - 1),
        "DT_UINT32": Kind("I", True, 0, 2**32 - 1),
        "DT_UINT64": Kind("Q", True, 0, 2**64 - 1),
        "DT_BOOL": Kind("B"),
        "DT_STRING": Kind(""),
    }.items()
}
"""As in ``AddValueToTensor``. Small integers are truncated to their size, as in TensorFlow."""
