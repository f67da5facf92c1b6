"""How values in JSON and elements of a tensor correspond, both ways.

Source: tensorflow/serving, ``util/json_tensor.cc`` (``AddValueToTensor``).
"""

from dataclasses import dataclass
from typing import Final

from sealserve.serving.runtime.protos import DataType


@dataclass(frozen=True, slots=True)
class Kind:
    """How JSON values become a tensor's.

    Args:
        field: The field of a TensorProto that takes them.
        accepts: The Python types of values that are of this kind.
        least: The least integer.
        greatest: The greatest integer.
    """

    field: str
    accepts: frozenset[type]
    least: int = 0
    greatest: int = 0


NUMBERS: Final = frozenset({int, float})
WHOLE: Final = frozenset({int})
KINDS: Final = {
    DataType.Value(name): kind
    for name, kind in {
        "DT_FLOAT": Kind("float_val", NUMBERS),
        "DT_DOUBLE": Kind("double_val", NUMBERS),
        "DT_INT32": Kind("int_val", WHOLE, -(2**31), 2**31 - 1),
        "DT_INT16": Kind("int_val", WHOLE, -(2**31), 2**31 - 1),
        "DT_INT8": Kind("int_val", WHOLE, -(2**31), 2**31 - 1),
        "DT_UINT8": Kind("int_val", WHOLE, -(2**31), 2**31 - 1),
        "DT_INT64": Kind("int64_val", WHOLE, -(2**63), 2**63 - 1),
        "DT_UINT32": Kind("uint32_val", WHOLE, 0, 2**32 - 1),
        "DT_UINT64": Kind("uint64_val", WHOLE, 0, 2**64 - 1),
        "DT_BOOL": Kind("bool_val", frozenset({bool})),
        "DT_STRING": Kind("string_val", frozenset({str, dict})),
    }.items()
}
"""As ``AddValueToTensor`` has it; small integers are cut to their size by TensorFlow, as there."""
