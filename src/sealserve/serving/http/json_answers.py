"""Tensors to JSON: the answers of the REST API's ``:predict``, in rows and in columns.

Source: tensorflow/serving, ``util/json_tensor.cc`` (``MakeJsonFromTensors``): the layout, down to the blanks.
"""

import base64
import math
from collections.abc import Mapping
from typing import Final

from sealserve.serving.http.json_kinds import KINDS, NUMBERS
from sealserve.serving.http.json_text import JsonFormError, decimals, quote
from sealserve.serving.runtime.data_types import type_name
from sealserve.serving.runtime.protos import DataType, TensorProto

_BASE64: Final = "b64"
_BYTES_SUFFIX: Final = "_bytes"
_STRING: Final = DataType.Value("DT_STRING")
_FLOAT: Final = DataType.Value("DT_FLOAT")
_BOOL: Final = DataType.Value("DT_BOOL")


def render_rows(outputs: Mapping[str, TensorProto]) -> bytes:
    """Return the answer in rows: ``{"predictions": [...]}``.

    Raises:
        JsonFormError: The outputs have no rows, or not the same number of them, or a type that there is no JSON for.
    """
    rows: int | None = None
    for alias, proto in sorted(outputs.items()):
        if not proto.tensor_shape.dim:
            raise JsonFormError(f"Tensor name: {alias} has no shape information ")
        size = proto.tensor_shape.dim[0].size
        if rows not in (None, size):
            raise JsonFormError(f"Tensor name: {alias} has inconsistent batch size: {size} expecting: {rows}")
        rows = size
    columns = {alias: _nested(alias, proto, 1) for alias, proto in sorted(outputs.items())}
    if len(columns) == 1:
        (items,) = columns.values()
        body = ", ".join(items)
    else:
        keys = [quote(alias) for alias in columns]
        body = ",".join(
            "\n        {\n"
            + ",\n".join(f"            {key}: {item}" for key, item in zip(keys, row, strict=True))
            + "\n        }"
            for row in zip(*columns.values(), strict=True)
        )
    return _document("predictions", f"[{body}\n    ]" if rows else "[]")


def render_columns(outputs: Mapping[str, TensorProto]) -> bytes:
    """Return the answer in columns: ``{"outputs": ...}``.

    Raises:
        JsonFormError: An output has a type that there is no JSON for.
    """
    if len(outputs) == 1:
        ((alias, proto),) = outputs.items()
        return _document("outputs", _indented(alias, proto, 4))
    body = ",\n".join(
        f"        {quote(alias)}: {_indented(alias, proto, 8)}" for alias, proto in sorted(outputs.items())
    )
    return _document("outputs", f"{{\n{body}\n    }}")


def _document(key: str, value: str) -> bytes:
    return f'{{\n    "{key}": {value}\n}}'.encode("utf-8", "surrogateescape")


def _leaves(alias: str, proto: TensorProto) -> list[str]:
    kind = KINDS.get(int(proto.dtype))
    if kind is None:
        raise JsonFormError(f"Failed to write JSON value for tensor type: {type_name(int(proto.dtype))}")
    values = getattr(proto, kind.field)
    if kind.accepts is NUMBERS:
        return decimals(values, single=proto.dtype == _FLOAT)
    if proto.dtype == _STRING:
        if alias.endswith(_BYTES_SUFFIX):
            return [f'{{"{_BASE64}": "{base64.b64encode(value).decode()}"}}' for value in values]
        return [quote(value.decode("utf-8", "surrogateescape")) for value in values]
    if proto.dtype == _BOOL:
        return ["true" if value else "false" for value in values]
    return list(map(str, values))


def _nested(alias: str, proto: TensorProto, depth: int) -> list[str]:
    """Return the sub-tensors at ``depth`` as JSON, each on one line."""
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    items = _leaves(alias, proto)
    for level in range(len(sizes) - 1, depth - 1, -1):
        groups = math.prod(sizes[:level])
        size = sizes[level]
        items = ["[" + ", ".join(items[index * size : (index + 1) * size]) + "]" for index in range(groups)]
    return items


def _indented(alias: str, proto: TensorProto, margin: int) -> str:
    """Return a tensor as JSON with each element on a line of its own, as RapidJSON's PrettyWriter lays it out."""
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    items = _leaves(alias, proto)
    for level in range(len(sizes) - 1, -1, -1):
        groups, size = math.prod(sizes[:level]), sizes[level]
        inner, outer = " " * (margin + 4 * (level + 1)), " " * (margin + 4 * level)
        items = [
            "[\n" + ",\n".join(inner + item for item in items[index * size : (index + 1) * size]) + f"\n{outer}]"
            if size
            else "[]"
            for index in range(groups)
        ]
    return items[0]
