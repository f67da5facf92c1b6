"""Conversion of JSON to tensors, for the REST API's ``:predict``.

Source: tensorflow/serving, ``util/json_tensor.cc``, for the accepted input and the messages. Where TensorFlow Serving
quotes a JSON value in an error, this server writes ``<hidden>``, because an error must not contain an input.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from sealserve.serving.http.json_errors import HIDDEN_VALUE, JsonFormError, JsonTypeError
from sealserve.serving.http.json_kinds import BOOL, KINDS, STRING, Kind
from sealserve.serving.http.json_nodes import (
    Base64,
    JsonObject,
    Numbers,
    Part,
    closed,
    count,
    json_type,
    part_of,
    shape_of,
)
from sealserve.serving.http.json_reader import INPUTS, INSTANCES
from sealserve.serving.http.leaves import Leaves
from sealserve.serving.request_errors import LONGEST_NAME, RequestError
from sealserve.serving.runtime.data_types import type_name
from sealserve.serving.runtime.protos import TensorInfo

Inputs = dict[str, Leaves]
_INSTANCES: Final = INSTANCES.encode()
_INPUTS: Final = INPUTS.encode()
_ACCEPTED: Final[Mapping[int, set[type]]] = {STRING: {bytes, Base64}, BOOL: {bool}}


def read_inputs(
    document: JsonObject, infos: Mapping[str, TensorInfo], charge: Callable[[int], None] = lambda _: None
) -> tuple[Inputs, bool]:
    """Return the inputs in ``document`` by alias, and whether they were given in rows (``instances``).

    Args:
        document: The request.
        infos: The signature's inputs by alias.
        charge: Called with the bytes that a tensor will use, before it is created.

    Raises:
        JsonFormError: The document does not have the form that the signature's inputs require.
        JsonTypeError: JSON cannot represent an input's type.
    """
    if _INSTANCES in document:
        if _INPUTS in document:
            raise JsonFormError(
                f"{HIDDEN_VALUE} Not formatted correctly expecting only one of '{INPUTS}' or '{INSTANCES}' keys to"
                " exist "
            )
        instances = document[_INSTANCES]
        if not isinstance(instances, list | Numbers):
            raise JsonFormError(f"{HIDDEN_VALUE} Expecting '{INSTANCES}' to be an list/array")
        if isinstance(instances, list) and not instances:
            raise JsonFormError(f"{HIDDEN_VALUE} No values in '{INSTANCES}' array")
        return _rows(instances, infos, charge), True
    if _INPUTS in document:
        return _columns(document[_INPUTS], infos, charge), False
    raise JsonFormError(f"Missing '{INPUTS}' or '{INSTANCES}' key")


def _rows(instances: list[Any] | Numbers, infos: Mapping[str, TensorInfo], charge: Callable[[int], None]) -> Inputs:
    first = None if isinstance(instances, Numbers) else instances[0]
    if not isinstance(first, JsonObject | Base64) and len(infos) > 1:
        raise JsonFormError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per"
            " tensorinfo_map"
        )
    if not isinstance(first, JsonObject):
        for index, element in enumerate(instances if isinstance(instances, list) else ()):
            if isinstance(element, JsonObject):
                raise JsonFormError(f"Expecting value/list but got object at item {index} of input list")
        alias = next(iter(infos))
        return {alias: _row(instances, infos[alias], charge, key="")}
    names = {alias.encode() for alias in infos}
    for index, element in enumerate(instances):
        if not isinstance(element, JsonObject):
            raise JsonFormError(f"Expecting object but got list at item {index} of input list")
        found = [name for name, _ in element.members]
        unknown = next((_shown(name) for name in found if name not in names), None)
        if unknown is not None:
            raise JsonFormError(
                f"Failed to process element: {index} key: {unknown} of 'instances' list. Error: INVALID_ARGUMENT:"
                f" JSON object: does not have named input: {unknown}"
            )
        if set(found) != names:
            raise JsonFormError(
                f"Failed to process element: {index} of 'instances' list. JSON object: <hidden> keys must be equal to:"
                f" {','.join(sorted(infos))}"
            )
    return {
        alias: _row(closed([element[alias.encode()] for element in instances]), info, charge, key=f" key: {alias}")
        for alias, info in infos.items()
    }


def _row(values: list[Any] | Numbers, info: TensorInfo, charge: Callable[[int], None], *, key: str) -> Leaves:
    try:
        return _leaves(values, int(info.dtype), charge)
    except (JsonFormError, JsonTypeError):
        _explain_rows(values, int(info.dtype), key)
        raise


def _explain_rows(values: list[Any] | Numbers, dtype: int, key: str) -> None:
    """Raise TensorFlow Serving's error, which checks the elements one by one."""
    elements = [values] if isinstance(values, Numbers) else values
    first = shape_of(elements[0])
    for index, value in enumerate(elements):
        shape, place = shape_of(value), index
        try:
            if isinstance(values, Numbers):  # the list is regular, so only its type can be wrong
                size = max(count(values.shape[1:]), 1)
                place = (_misfit(values, KINDS.get(dtype)) or 0) // size
            _explain(value, shape, dtype)
            if count(shape) != count(first):
                raise JsonFormError(f"Expecting tensor size: {count(first)} but got: {count(shape)}")
            if shape != first:
                raise JsonFormError(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")
        except RequestError as error:
            raise JsonFormError(
                f"Failed to process element: {place}{key} of 'instances' list. Error: {error.status.name}:"
                f" {error.message}"
            ) from error


def _columns(value: Any, infos: Mapping[str, TensorInfo], charge: Callable[[int], None]) -> Inputs:
    if not isinstance(value, JsonObject):
        if len(infos) > 1:
            raise JsonFormError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per"
                " tensorinfo_map"
            )
        alias = next(iter(infos))
        return {alias: _leaves(value, int(infos[alias].dtype), charge)}
    inputs: Inputs = {}
    for alias, info in sorted(infos.items()):
        if alias.encode() not in value:
            raise JsonFormError(f"Missing named input: {alias} in 'inputs' object.")
        inputs[alias] = _leaves(value[alias.encode()], int(info.dtype), charge)
    return inputs


def _shape_text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _shown(name: bytes) -> str:
    return name[:LONGEST_NAME].decode("utf-8", "backslashreplace")


def _leaves(node: Any, dtype: int, charge: Callable[[int], None]) -> Leaves:
    """Return the elements of a value. It works level by level, so that no Python code runs per element."""
    shape, kind = shape_of(node), KINDS.get(dtype)
    if type(node) in {int, float}:
        node = Numbers([], [part_of([node])])
    if isinstance(node, Numbers):
        if kind is None or _misfit(node, kind) is not None:
            _explain(node, shape, dtype)
        return Leaves(dtype, shape, node.parts, [], charge)
    leaves = [node]
    for size in shape:
        if set(map(type, leaves)) - {list} or set(map(len, leaves)) - {size}:
            _explain(node, shape, dtype)
        leaves = list(itertools.chain.from_iterable(leaves))
    kinds = set(map(type, leaves))
    if kind is None or not kinds <= _accepted(dtype):
        _explain(node, shape, dtype)
    if dtype == STRING:
        return Leaves(dtype, shape, [], [_bytes(leaf) if isinstance(leaf, Base64) else leaf for leaf in leaves], charge)
    return Leaves(dtype, shape, [Part(bytes(leaves))] if leaves else [], [], charge)


def _accepted(dtype: int) -> set[type]:
    """Return the types of values other than numbers that a tensor accepts."""
    return _ACCEPTED.get(dtype, set())


def _misfit(numbers: Numbers, kind: Kind | None) -> int | None:
    """Return the index of the first number that a tensor of this kind does not accept, or None if it accepts all."""
    if kind is None or kind.code == "" or (kind.code == "B" and not kind.whole):
        return 0
    if not kind.whole:
        return None
    start = 0
    for part in numbers.parts:
        if part.has_fractions:
            return start + max(part.whole.find(b"\0"), 0)
        if len(part.values) and not (kind.least <= min(part.values) and max(part.values) <= kind.greatest):
            return start + next(i for i, value in enumerate(part.values) if not kind.least <= value <= kind.greatest)
        start += len(part.values)
    return None


def _bytes(value: Base64) -> bytes:
    if value.content is None:
        raise JsonFormError("Unable to base64 decode")
    return value.content


def _explain(node: Any, shape: Sequence[int], dtype: int) -> None:
    """Raise TensorFlow Serving's error for the first place where ``node`` is not a tensor of ``shape``.

    Source: ``FillTensorProto``.
    """
    waiting: list[Iterator[Any]] = [iter((node,))]
    while waiting:
        level = len(waiting) - 1
        value = next(waiting[-1], waiting)
        if value is waiting:
            waiting.pop()
        elif isinstance(value, list):
            _check_size(len(value), level, shape)
            waiting.append(iter(value))
        elif isinstance(value, Numbers):
            for size in value.shape:
                _check_size(size, level, shape)
                level += 1
            _check_level(level, shape)
            if _misfit(value, KINDS.get(dtype)) is not None:
                _check_leaf(0.5, dtype)
        else:
            _check_level(level, shape)
            _check_leaf(value, dtype)


def _check_size(size: int, level: int, shape: Sequence[int]) -> None:
    if level >= len(shape):
        raise JsonFormError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if size != shape[level]:
        raise JsonFormError(
            f"Encountered list at unexpected size: {size} at level: {level} expected size: {shape[level]}"
        )


def _check_level(level: int, shape: Sequence[int]) -> None:
    if level != len(shape):
        raise JsonFormError(
            f"{HIDDEN_VALUE} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
        )


def _check_leaf(value: Any, dtype: int) -> None:
    """Raise an error if a value is not an element of a tensor of the type."""
    kind = KINDS.get(dtype)
    if kind is not None and type(value) in {int, float} and _misfit(Numbers([], [part_of([value])]), kind) is None:
        return
    if kind is None and not isinstance(value, JsonObject | Base64):
        raise JsonTypeError(f"Conversion of {HIDDEN_VALUE} to type: {type_name(dtype)}")
    if dtype == STRING and isinstance(value, JsonObject):
        raise JsonFormError(f"{HIDDEN_VALUE} not formatted correctly for base64 data")
    if dtype == STRING and isinstance(value, Base64):
        _bytes(value)
        return
    if kind is None or type(value) not in _accepted(dtype):
        raise JsonFormError(f"{HIDDEN_VALUE} Type: {json_type(value)} is not of expected type: {type_name(dtype)}")
