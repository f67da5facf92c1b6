"""The datatypes of the Open Inference Protocol, and the types of TensorFlow that they name.

Source: kserve/open-inference-protocol d49cc23, ``inference_rest.md``, "Tensor Data Types", and the comments of
``InferTensorContents`` in ``open_inference_grpc.proto``. BF16 is mentioned only there.
"""

from dataclasses import dataclass
from typing import Final

from sealserve.serving.http.json_kinds import Kind
from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.data_types import element_size, type_name, value_type
from sealserve.serving.runtime.protos import DataType

BYTES: Final = "BYTES"
BOOL: Final = "BOOL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Datatype:
    """A datatype.

    Args:
        name: The protocol's name.
        dtype: TensorFlow's type.
        field: The field of ``InferTensorContents``; empty if only raw contents can hold the type.
        kind: The form of an element in memory and its range; None if JSON cannot represent the type.
    """

    name: str
    dtype: int
    field: str = ""
    kind: Kind | None = None

    @property
    def size(self) -> int:
        """The size of an element in a tensor's memory, in bytes."""
        return element_size(self.dtype)

    @property
    def code(self) -> str:
        """The format of an element in memory, as in `array`; empty if the elements are not numbers in Python."""
        return self.kind.code if self.kind is not None else ""


def _signed(code: str, bits: int) -> Kind:
    return Kind(code, True, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)  # type: ignore[arg-type]  # the table has the codes


def _unsigned(code: str, bits: int) -> Kind:
    return Kind(code, True, 0, 2**bits - 1)  # type: ignore[arg-type]  # the table has the codes


_TYPES: Final = tuple(
    Datatype(name=name, dtype=DataType.Value(dtype), field=field, kind=kind)
    for name, dtype, field, kind in (
        (BOOL, "DT_BOOL", "bool_contents", Kind("B")),
        ("UINT8", "DT_UINT8", "uint_contents", _unsigned("B", 8)),
        ("UINT16", "DT_UINT16", "uint_contents", _unsigned("H", 16)),
        ("UINT32", "DT_UINT32", "uint_contents", _unsigned("I", 32)),
        ("UINT64", "DT_UINT64", "uint64_contents", _unsigned("Q", 64)),
        ("INT8", "DT_INT8", "int_contents", _signed("b", 8)),
        ("INT16", "DT_INT16", "int_contents", _signed("h", 16)),
        ("INT32", "DT_INT32", "int_contents", _signed("i", 32)),
        ("INT64", "DT_INT64", "int64_contents", _signed("q", 64)),
        ("FP16", "DT_HALF", "", None),
        ("BF16", "DT_BFLOAT16", "", None),
        ("FP32", "DT_FLOAT", "fp32_contents", Kind("f")),
        ("FP64", "DT_DOUBLE", "fp64_contents", Kind("d")),
        (BYTES, "DT_STRING", "bytes_contents", Kind("")),
    )
)
DATATYPES: Final = {datatype.name: datatype for datatype in _TYPES}
_OF_TYPE: Final = {datatype.dtype: datatype for datatype in _TYPES}
_SHOWN: Final = 32


def datatype_of(dtype: int, what: str) -> Datatype:
    """Return the datatype of a tensor.

    Args:
        dtype: TensorFlow's type. A reference to a variable counts as its value.
        what: The tensor, for the error.

    Raises:
        RequestError: `request.tensor-type`: The protocol has no such datatype.
    """
    datatype = _OF_TYPE.get(value_type(dtype))
    if datatype is None:
        raise RequestCode.TENSOR_TYPE.error(
            f"The {what} has the type {type_name(dtype)}, which the Open Inference Protocol cannot represent."
            " Use TensorFlow Serving's gRPC API."
        )
    return datatype


def datatype_named(name: str, alias: str) -> Datatype:
    """Return the datatype with a name in a request.

    Args:
        name: The name.
        alias: The input, for the error.

    Raises:
        RequestError: `request.input-type`: The datatype is unknown.
    """
    datatype = DATATYPES.get(name)
    if datatype is None:
        raise RequestCode.INPUT_TYPE.error(
            f"The datatype {name[:_SHOWN]!r} of the input {alias!r} is unknown: expected {', '.join(DATATYPES)}."
        )
    return datatype
