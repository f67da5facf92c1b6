"""JSON to tensors and back, for the REST API's ``:predict``.

Source: tensorflow/serving, ``util/json_tensor.cc``: what is accepted, the messages, the layout of the answers. Where
theirs quotes a JSON value in an error, ours says ``<hidden>``: no input leaves the process in an error.
"""

import base64
import binascii
import itertools
import json
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sealserve.serving.protos import DataType, PredictRequest, TensorInfo, TensorProto
from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.tensors import type_name

INSTANCES: Final = "instances"
INPUTS: Final = "inputs"
SIGNATURE: Final = "signature_name"

_BASE64: Final = "b64"
_BYTES_SUFFIX: Final = "_bytes"
_VALUE: Final = "JSON Value: <hidden>"


class JsonSyntaxError(RequestError):
    """The body is no JSON."""

    code = "request.json-syntax"


class JsonFormError(RequestError):
    """The body is JSON, but not of the form that the method takes."""

    code = "request.json-form"


class JsonTypeError(RequestError):
    """There is no JSON for values of the tensor's type."""

    code = "request.json-type"
    status = Status.UNIMPLEMENTED


@dataclass(frozen=True, slots=True)
class _Kind:
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


_NUMBERS: Final = frozenset({int, float})
_WHOLE: Final = frozenset({int})
_KINDS: Final = {
    DataType.Value(name): kind
    for name, kind in {
        "DT_FLOAT": _Kind("float_val", _NUMBERS),
        "DT_DOUBLE": _Kind("double_val", _NUMBERS),
        "DT_INT32": _Kind("int_val", _WHOLE, -(2**31), 2**31 - 1),
        "DT_INT16": _Kind("int_val", _WHOLE, -(2**31), 2**31 - 1),
        "DT_INT8": _Kind("int_val", _WHOLE, -(2**31), 2**31 - 1),
        "DT_UINT8": _Kind("int_val", _WHOLE, -(2**31), 2**31 - 1),
        "DT_INT64": _Kind("int64_val", _WHOLE, -(2**63), 2**63 - 1),
        "DT_UINT32": _Kind("uint32_val", _WHOLE, 0, 2**32 - 1),
        "DT_UINT64": _Kind("uint64_val", _WHOLE, 0, 2**64 - 1),
        "DT_BOOL": _Kind("bool_val", frozenset({bool})),
        "DT_STRING": _Kind("string_val", frozenset({str, dict})),
    }.items()
}
"""As ``AddValueToTensor`` has it; small integers are cut to their size by TensorFlow, as there."""
_STRING: Final = DataType.Value("DT_STRING")
_FLOAT: Final = DataType.Value("DT_FLOAT")
_DOUBLE: Final = DataType.Value("DT_DOUBLE")
_BOOL: Final = DataType.Value("DT_BOOL")

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()
_MESSAGES: Final = (
    ("Expecting value", "Invalid value."),
    ("Expecting property name", "Missing a name for object member."),
    ("Illegal trailing comma before end of object", "Missing a name for object member."),
    ("Illegal trailing comma before end of array", "Invalid value."),
    ("Expecting ':' delimiter", "Missing a colon after a name of object member."),
    ("Expecting ',' delimiter", "Missing a comma, or the end of an object or an array."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid \\uXXXX escape", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\escape", "Invalid escape character in string."),
    ("Invalid control character", "Invalid encoding in string."),
)
"""Python's words for what is wrong, and RapidJSON's (``rapidjson/error/en.h``)."""


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``. NaN, Infinity and -Infinity are numbers; what follows the object is ignored.

    Raises:
        JsonSyntaxError: It is no JSON.
        JsonFormError: It is no object.
    """
    try:
        text = body.decode("utf-8-sig")
        start = _SPACE.match(text)
        begin = start.end() if start else 0
        if begin == len(text):
            raise JsonSyntaxError("JSON Parse error: The document is empty")
        document, _ = _DECODER.raw_decode(text, begin)
    except UnicodeDecodeError as error:
        raise JsonSyntaxError(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from error
    except json.JSONDecodeError as error:
        known = next((ours for theirs, ours in _MESSAGES if error.msg.startswith(theirs)), "Unspecific syntax error.")
        offset = len(text[: error.pos].encode("utf-8", "surrogatepass"))
        raise JsonSyntaxError(f"JSON Parse error: {known} at offset: {offset}") from error
    except RecursionError as error:
        raise JsonSyntaxError("JSON Parse error: The document is nested too deeply.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise JsonSyntaxError("JSON Parse error: Number too big to be stored in double.") from error
    if not isinstance(document, dict):
        raise JsonFormError(f"{_VALUE} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """Return the signature that a request names, or nothing.

    Raises:
        JsonFormError: It is no string.
    """
    name = document.get(SIGNATURE, "")
    if not isinstance(name, str):
        raise JsonFormError(f"{_VALUE} not formatted correctly. 'signature_name' key must be a string value.")
    return name


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
                f"{_VALUE} Not formatted correctly expecting only one of '{INPUTS}' or '{INSTANCES}' keys to exist "
            )
        instances = document[INSTANCES]
        if not isinstance(instances, list):
            raise JsonFormError(f"{_VALUE} Expecting '{INSTANCES}' to be an list/array")
        if not instances:
            raise JsonFormError(f"{_VALUE} No values in '{INSTANCES}' array")
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


def is_base64(value: Any) -> bool:
    """Whether a value stands for bytes: an object whose only key is ``b64``, with a string."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_BASE64), str)


def decode_base64(value: Mapping[str, str]) -> bytes:
    """Return the bytes that a value stands for.

    Raises:
        JsonFormError: It is no base64.
    """
    try:
        text = "".join(value[_BASE64].split()).rstrip("=.")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise JsonFormError("Unable to base64 decode") from error


def encode_text(value: str) -> bytes:
    """Return a string's bytes.

    Raises:
        JsonSyntaxError: It has half of a surrogate pair.
    """
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise JsonSyntaxError("JSON Parse error: The surrogate pair in string is invalid.") from error


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
    kind = _KINDS.get(dtype)
    if kind is None or not _fit(leaves, kind):
        _explain(value, 0, shape, dtype)
    elif dtype == _STRING:
        proto.string_val.extend([encode_text(leaf) if isinstance(leaf, str) else _bytes(leaf) for leaf in leaves])
    elif kind.accepts is _NUMBERS:
        try:
            getattr(proto, kind.field).extend(array("d" if dtype == _DOUBLE else "f", leaves))
        except OverflowError as error:
            raise JsonSyntaxError("JSON Parse error: Number too big to be stored in double.") from error
    else:
        getattr(proto, kind.field).extend(leaves)


def _fit(leaves: Sequence[Any], kind: _Kind) -> bool:
    """Whether values are of a kind."""
    if not set(map(type, leaves)) <= kind.accepts:
        return False
    return kind.accepts is not _WHOLE or not leaves or (kind.least <= min(leaves) and max(leaves) <= kind.greatest)


def _bytes(value: Any) -> bytes:
    if not is_base64(value):
        raise JsonFormError(f"{_VALUE} not formatted correctly for base64 data")
    return decode_base64(value)


def _explain(value: Any, level: int, shape: Sequence[int], dtype: int) -> None:
    """Raise what theirs says of the first place where ``value`` is no tensor of ``shape`` (``FillTensorProto``)."""
    if not isinstance(value, list):
        if level != len(shape):
            raise JsonFormError(
                f"{_VALUE} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
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
    kind = _KINDS.get(dtype)
    if kind is None and not isinstance(value, dict):
        raise JsonTypeError(f"Conversion of {_VALUE} to type: {type_name(dtype)}")
    if kind is None or not _fit([value], kind):
        raise JsonFormError(f"{_VALUE} Type: {json_type(value)} is not of expected type: {type_name(dtype)}")


def json_type(value: Any) -> str:
    """Return what JSON calls the type of a value."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, dict):
        return "Object"
    if isinstance(value, list):
        return "Array"
    return "String" if isinstance(value, str) else "Number"


# --- answers ----------------------------------------------------------------------------------------------------------


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
    kind = _KINDS.get(int(proto.dtype))
    if kind is None:
        raise JsonFormError(f"Failed to write JSON value for tensor type: {type_name(int(proto.dtype))}")
    values = getattr(proto, kind.field)
    if kind.accepts is _NUMBERS:
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
        groups = _count(sizes[:level])
        size = sizes[level]
        items = ["[" + ", ".join(items[index * size : (index + 1) * size]) + "]" for index in range(groups)]
    return items


def _indented(alias: str, proto: TensorProto, margin: int) -> str:
    """Return a tensor as JSON with each element on a line of its own, as RapidJSON's PrettyWriter lays it out."""
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    items = _leaves(alias, proto)
    for level in range(len(sizes) - 1, -1, -1):
        groups, size = _count(sizes[:level]), sizes[level]
        inner, outer = " " * (margin + 4 * (level + 1)), " " * (margin + 4 * level)
        items = [
            "[\n" + ",\n".join(inner + item for item in items[index * size : (index + 1) * size]) + f"\n{outer}]"
            if size
            else "[]"
            for index in range(groups)
        ]
    return items[0]


def decimals(values: Sequence[float], *, single: bool) -> list[str]:
    """Return numbers as theirs writes them: six digits where they suffice, else as many as tell the number apart."""
    code, digits = ("f", 9) if single else ("d", 17)
    short = [f"{value:g}" for value in values]
    exact = array(code, map(float, short))
    found = []
    for value, text, again in zip(values, short, exact, strict=True):
        if value != value:  # noqa: PLR0124  # NaN
            found.append("NaN")
        elif text in {"inf", "-inf"}:
            found.append("Infinity" if value > 0 else "-Infinity")
        else:
            written = text if again == value else f"{value:.{digits}g}"
            found.append(written if "." in written or "e" in written else f"{written}.0")
    return found


_ESCAPES: Final = {
    **{code: f"\\u{code:04X}" for code in range(0x20)},
    **{
        ord(plain): escape
        for plain, escape in zip('"\\\b\f\n\r\t', ('\\"', r"\\", r"\b", r"\f", r"\n", r"\r", r"\t"), strict=True)
    },
}


def quote(text: str) -> str:
    """Return a string as JSON, as RapidJSON writes it: only what must be escaped is."""
    return f'"{text.translate(_ESCAPES)}"'
