"""The data types of tensors: the layout of an element in memory, and its field in a message.

Source: tensorflow/tensorflow 2.21, ``tensorflow/core/framework/types.proto`` and ``tensor.proto``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.libtensorflow import TSTRING_SIZE
from sealserve.serving.runtime.protos import DataType

_REFERENCES: Final = 100
"""The number that TensorFlow adds to a type's number for a reference to a variable of this type."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The layout of a data type in memory, and its field in a TensorProto.

    Args:
        size: Bytes of one element.
        field: The field for typed values.
        code: The `memoryview` format that reads an element; empty if the field's bytes are the elements' bytes.
        canonical: For a type of less than a byte, the value of each byte in memory, whose upper bits may be arbitrary.
    """

    size: int
    field: str
    code: Literal["", "b", "B", "h", "H", "i", "I", "q", "Q"] = ""
    canonical: bytes | None = None


def _narrow(bits: int, *, signed: bool) -> bytes:
    """Return the table that truncates each byte to ``bits``, and extends the sign of signed types."""
    lowest = (byte % 2**bits for byte in range(256))
    return bytes((low - 2**bits if signed and low >= 2 ** (bits - 1) else low) % 256 for low in lowest)


_KINDS: Final[Mapping[int, Kind]] = {
    DataType.Value(name): kind
    for name, kind in {
        "DT_FLOAT": Kind(4, "float_val"),
        "DT_DOUBLE": Kind(8, "double_val"),
        "DT_COMPLEX64": Kind(8, "scomplex_val"),
        "DT_COMPLEX128": Kind(16, "dcomplex_val"),
        "DT_BOOL": Kind(1, "bool_val"),
        "DT_INT8": Kind(1, "int_val", "b"),
        "DT_UINT8": Kind(1, "int_val", "B"),
        "DT_INT16": Kind(2, "int_val", "h"),
        "DT_UINT16": Kind(2, "int_val", "H"),
        "DT_INT32": Kind(4, "int_val", "i"),
        "DT_UINT32": Kind(4, "uint32_val", "I"),
        "DT_INT64": Kind(8, "int64_val", "q"),
        "DT_UINT64": Kind(8, "uint64_val", "Q"),
        "DT_HALF": Kind(2, "half_val", "H"),
        "DT_BFLOAT16": Kind(2, "half_val", "H"),
        "DT_QINT8": Kind(1, "int_val", "b"),
        "DT_QUINT8": Kind(1, "int_val", "B"),
        "DT_QINT32": Kind(4, "int_val", "i"),
        "DT_QINT16": Kind(2, "int_val", "h"),
        "DT_QUINT16": Kind(2, "int_val", "H"),
        "DT_FLOAT8_E5M2": Kind(1, "float8_val"),
        "DT_FLOAT8_E4M3FN": Kind(1, "float8_val"),
        "DT_FLOAT8_E4M3FNUZ": Kind(1, "float8_val"),
        "DT_FLOAT8_E4M3B11FNUZ": Kind(1, "float8_val"),
        "DT_FLOAT8_E5M2FNUZ": Kind(1, "float8_val"),
        "DT_FLOAT4_E2M1FN": Kind(1, "float8_val"),
        "DT_INT4": Kind(1, "int_val", "b", _narrow(4, signed=True)),
        "DT_UINT4": Kind(1, "int_val", "B", _narrow(4, signed=False)),
        "DT_INT2": Kind(1, "int_val", "b", _narrow(2, signed=True)),
        "DT_UINT2": Kind(1, "int_val", "B", _narrow(2, signed=False)),
        "DT_STRING": Kind(TSTRING_SIZE, "string_val"),
    }.items()
}


def type_name(dtype: int) -> str:
    """Return a data type's name in the spelling of TensorFlow's messages: ``float``, ``int32``, ``string``."""
    if dtype not in DataType.values():
        return f"type {dtype}"
    return str(DataType.Name(dtype)).removeprefix("DT_").lower()


def value_type(dtype: int) -> int:
    """Return the type of the values. For a reference to a variable (``float_ref``), this is the variable's type.

    TensorFlow returns a copy of the variable's value, which has the variable's type.
    """
    return dtype - _REFERENCES if dtype > _REFERENCES else dtype


def is_known(dtype: int) -> bool:
    """Return whether tensors of this type can be sent and received."""
    return dtype in _KINDS


def element_size(dtype: int) -> int:
    """Return the size in bytes of an element of a type."""
    return kind_of(dtype).size


def kind_of(dtype: int) -> Kind:
    """Return the layout of a data type.

    Raises:
        RequestError: `request.tensor-type`: Tensors of this type cannot be sent.
    """
    kind = _KINDS.get(dtype)
    if kind is None:
        raise RequestCode.TENSOR_TYPE.error(f"A tensor of the type {type_name(dtype)} cannot be sent in a message.")
    return kind
