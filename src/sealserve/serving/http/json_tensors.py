"""JSON to tensors, for the REST API's ``:predict``.

Source: tensorflow/serving, ``util/json_tensor.cc``: what is accepted and the messages. Where theirs quotes a JSON value
in an error, ours says ``<hidden>``: no input leaves the process in an error.
"""

import itertools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sealserve.serving.http.json_kinds import KINDS, NUMBERS, WHOLE, Kind
from sealserve.serving.http.json_text import (
    HIDDEN_VALUE,
    JsonFormError,
    JsonSyntaxError,
    decode_base64,
    encode_text,
    is_base64,
    json_type,
)
from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.runtime.data_types import type_name
from sealserve.serving.runtime.protos import DataType, PredictRequest, TensorInfo, TensorProto

INSTANCES: Final = "instances"
INPUTS: Final = "inputs"

_STRING: Final = DataType.Value("DT_STRING")
_DOUBLE: Final = DataType.Value("DT_DOUBLE")


class JsonTypeError(RequestError):
    """There is no JSON for values of the tensor's type."""

    code = "request.json-type"
    status = Status.UNIMPLEMENTED


def fill_inputs(document: Mapping[str, Any], infos: Mapping[str, TensorInfo], request: PredictRequest) -> bool:
    """Write the inputs of ``document`` into ``request``; return whether they came in rows (``instances``).

    Args:
        document: The request.
        infos: The signature's inputs by alias.
        request: Where the tensors go.

    Raises:
        JsonFormError: It has not the form that the signature's inputs need.
        JsonTypeError: An input is of a type that there is no JSON for.
    """
    if INSTANCES in document:
        if INPUTS in document:
            raise JsonFormError(
                f"{HIDDEN_VALUE} Not formatted correctly expecting only one of '{INPUTS}' or '{INSTANCES}' keys to"
                " exist "
            )
        instances = document[INSTANCES]
        if not isinstance(instances, list):
            raise JsonFormError(f"{HIDDEN_VALUE} Expecting '{INSTANCES}' to be an list/array")
        if not instances:
            raise JsonFormError(f"{HIDDEN_VALUE} No values in '{INSTANCES}' array")
        _fill_rows(instances, infos, request)
        return True
    if INPUTS in document:
        _fill_columns(document[INPUTS], infos, request)
        return False
    raise JsonFormError(f"Missing '{INPUTS}' or '{INSTANCES}' key")


def _fill_rows(instances: list[Any], infos: Mapping[str, TensorInfo], request: PredictRequest) -> None:
    if not isinstance(instances[0], dict) and len(infos) > 1:
        raise JsonFormError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per"
            " tensorinfo_map"
        )
    if not _is_object(instances[0]):
        for index, element in enumerate(instances):
            if _is_object(element):
                raise JsonFormError(f"Expecting value/list but got object at item {index} of input list")
        alias = next(iter(infos))
        _fill_row(instances, alias, infos[alias], request, key="")
        return
    names = set(infos)
    for index, element in enumerate(instances):
        if not _is_object(element):
            raise JsonFormError(f"Expecting object but got list at item {index} of input list")
        unknown = next((name for name in element if name not in names), None)
        if unknown is not None:
            raise JsonFormError(
                f"Failed to process element: {index} key: {unknown} of 'instances' list. Error: INVALID_ARGUMENT:"
                f" JSON object: does not have named input: {unknown}"
            )
        if len(element) != len(names):
            raise JsonFormError(
                f"Failed to process element: {index} of 'instances' list. JSON object: <hidden> keys must be equal to:"
                f" {','.join(sorted(names))}"
            )
    for alias, info in infos.items():
        _fill_row([element[alias] for element in instances], alias, info, request, key=f" key: {alias}")


def _fill_row(values: list[Any], alias: str, info: TensorInfo, request: PredictRequest, *, key: str) -> None:
    proto = request.inputs[alias]
    try:
        _fill(values, (len(values), *_shape(values[0])), int(info.dtype), proto)
    except (JsonFormError, JsonTypeError):
        proto.Clear()
        _explain_rows(values, int(info.dtype), key)
        raise


def _explain_rows(values: list[Any], dtype: int, key: str) -> None:
    """Raise what theirs says, which goes through the elements one by one."""
    first = _shape(values[0])
    for index, value in enumerate(values):
        shape = _shape(value)
        try:
            _fill(value, shape, dtype, TensorProto())
            if _count(shape) != _count(first):
                raise JsonFormError(f"Expecting tensor size: {_count(first)} but got: {_count(shape)}")
            if shape != first:
                raise JsonFormError(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")
        except RequestError as error:
            raise JsonFormError(
                f"Failed to process element: {index}{key} of 'instances' list. Error: {error.status.name}:"
                f" {error.message}"
            ) from error


def _fill_columns(value: Any, infos: Mapping[str, TensorInfo], request: PredictRequest) -> None:
    if not _is_object(value):
        if len(infos) > 1:
            raise JsonFormError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per"
                " tensorinfo_map"
            )
        alias = next(iter(infos))
        _fill(value, _shape(value), int(infos[alias].dtype), request.inputs[alias])
        return
    for alias, info in sorted(infos.items()):
        if alias not in value:
            raise JsonFormError(f"Missing named input: {alias} in 'inputs' object.")
        _fill(value[alias], _shape(value[alias]), int(info.dtype), request.inputs[alias])


def _is_object(value: Any) -> bool:
    """Whether a value is an object of named values, and not one that stands for bytes."""
    return isinstance(value, dict) and not is_base64(value)


def _shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _count(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _shape_text(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _fill(value: Any, shape: tuple[int, ...], dtype: int, proto: TensorProto) -> None:
    """Write a nested list of ``shape`` into ``proto``: level by level, so that no element costs Python code."""
    proto.dtype = dtype
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    leaves = [value]
    for size in shape:
        if set(map(type, leaves)) - {list} or set(map(len, leaves)) - {size}:
            _explain(value, 0, shape, dtype)
        leaves = list(itertools.chain.from_iterable(leaves))
    kind = KINDS.get(dtype)
    if kind is None or not _fit(leaves, kind):
        _explain(value, 0, shape, dtype)
    elif dtype == _STRING:
        proto.string_val.extend([encode_text(leaf) if isinstance(leaf, str) else _bytes(leaf) for leaf in leaves])
    elif kind.accepts is NUMBERS:
        try:
            getattr(proto, kind.field).extend(array("d" if dtype == _DOUBLE else "f", leaves))
        except OverflowError as error:
            raise JsonSyntaxError("JSON Parse error: Number too big to be stored in double.") from error
    else:
        getattr(proto, kind.field).extend(leaves)


def _fit(leaves: Sequence[Any], kind: Kind) -> bool:
    """Whether values are of a kind."""
    if not set(map(type, leaves)) <= kind.accepts:
        return False
    return kind.accepts is not WHOLE or not leaves or (kind.least <= min(leaves) and max(leaves) <= kind.greatest)


def _bytes(value: Any) -> bytes:
    if not is_base64(value):
        raise JsonFormError(f"{HIDDEN_VALUE} not formatted correctly for base64 data")
    return decode_base64(value)


def _explain(value: Any, level: int, shape: Sequence[int], dtype: int) -> None:
    """Raise what theirs says of the first place where ``value`` is no tensor of ``shape`` (``FillTensorProto``)."""
    if not isinstance(value, list):
        if level != len(shape):
            raise JsonFormError(
                f"{HIDDEN_VALUE} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
            )
        _check_leaf(value, dtype)
        return
    if level >= len(shape):
        raise JsonFormError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise JsonFormError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        _explain(element, level + 1, shape, dtype)


def _check_leaf(value: Any, dtype: int) -> None:
    kind = KINDS.get(dtype)
    if kind is None and not isinstance(value, dict):
        raise JsonTypeError(f"Conversion of {HIDDEN_VALUE} to type: {type_name(dtype)}")
    if kind is None or not _fit([value], kind):
        raise JsonFormError(f"{HIDDEN_VALUE} Type: {json_type(value)} is not of expected type: {type_name(dtype)}")
