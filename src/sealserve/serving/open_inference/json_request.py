"""An inference request in JSON, with binary tensors after it.

Source: kserve/open-inference-protocol d49cc23, ``inference_rest.md`` (the JSON); triton-inference-server/server,
``docs/protocol/extension_binary_data.md`` (binary tensors).
"""

import itertools
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sealserve.serving.http.json_nodes import JsonObject, Numbers, Part, shape_of
from sealserve.serving.http.json_numbers import Text
from sealserve.serving.http.json_reader import read
from sealserve.serving.open_inference import parameters
from sealserve.serving.open_inference.datatypes import BOOL, BYTES, datatype_named
from sealserve.serving.open_inference.inputs import Input, RawInput
from sealserve.serving.open_inference.parameters import Parameters, Value
from sealserve.serving.open_inference.service import by_name
from sealserve.serving.request_errors import LONGEST_NAME, RequestCode, RequestError
from sealserve.serving.runtime.libtensorflow import Library
from sealserve.serving.runtime.tensors import MAX_RANK, Tensor, string_message
from sealserve.serving_interface import BINARY_HEADER

_MEMBERS: Final = frozenset((b"id", b"parameters", b"inputs", b"outputs"))
_DOUBLE: Final = b"FP64"

Charge = Callable[[int], None]


class JsonInput(Input):
    """An input whose contents are a JSON list: of its elements row by row, or nested like its shape."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """The size of the tensor in bytes, without the strings of BYTES."""
        size: int = self.elements * self.datatype.size
        return size

    def tensor(self, library: Library) -> Tensor:
        """Return the tensor.

        Raises:
            RequestError: `request.input-tensor`: The values are not elements of the shape and the type.
        """
        self._check_shape()
        self.charge(self.size)
        if isinstance(self.contents, Numbers):
            self._check_numbers(self.contents)
            return Tensor.from_stream(library, self.dtype, self.shape, self._parts(self.contents.parts))
        elements = self._flat()
        if self.datatype.name == BYTES:
            self.charge(3 * sum(map(len, elements)))  # two messages, and the tensor
            return Tensor.from_proto(library, string_message(self.shape, elements))
        return Tensor.from_bytes(library, self.dtype, self.shape, [bytes(elements)])

    def _check_shape(self) -> None:
        shape = shape_of(self.contents)
        if len(shape) == 1:
            self.check_count(shape[0])
        elif shape != self.shape:
            raise self.fault(f"expected a list of {self.elements} elements, or lists nested like {list(self.shape)}")

    def _check_numbers(self, numbers: Numbers) -> None:
        """Check that each number is a value of the type."""
        kind, name = self.datatype.kind, self.datatype.name
        if kind is None or not kind.code or name == BOOL:
            raise self._wrong_type()
        for part in numbers.parts if kind.whole else ():
            if part.has_fractions:
                raise self._wrong_type()
            if not (kind.least <= min(part.values) and max(part.values) <= kind.greatest):
                raise self.fault(f"a value is outside of the range of {name}")

    def _flat(self) -> Any:
        """Return the elements that are not numbers, row by row."""
        elements: list[Any] = [self.contents]
        for size in shape_of(self.contents):
            if set(map(type, elements)) != {list} or set(map(len, elements)) != {size}:
                raise self.fault("its lists differ in length, or its values differ in type")
            elements = list(itertools.chain.from_iterable(elements))
        expected = {BYTES: bytes, BOOL: bool}.get(self.datatype.name)
        if elements and set(map(type, elements)) != {expected}:
            raise self._wrong_type()
        return elements

    def _wrong_type(self) -> RequestError:
        name = self.datatype.name
        if self.datatype.kind is None:
            return self.fault(f"JSON cannot represent {name}: send the tensor as binary data")
        wanted = {BYTES: "strings", BOOL: "true or false"}.get(
            name, "whole numbers" if self.datatype.kind.whole else "numbers"
        )
        return self.fault(f"{name} requires {wanted}")

    def _parts(self, parts: list[Part]) -> Iterator[memoryview]:
        """Yield the tensor's memory, part by part, and free each part when it is in the tensor."""
        parts.reverse()
        while parts:
            values = parts.pop().values
            if not isinstance(values, array) or values.typecode != self.datatype.code:
                values = array(self.datatype.code, values)
            yield memoryview(values).cast("B")


ReadInput = RawInput | JsonInput


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """An output in a request.

    Args:
        name: The output's name.
        is_binary: Whether the response contains it as binary data.
    """

    name: str
    is_binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonRequest:
    """A request that has been read.

    Args:
        identifier: The client's identifier of the request, or None. Bytes that are not UTF-8 are surrogates.
        signature: The signature's name; empty for the default signature.
        inputs: The inputs by name.
        outputs: The requested outputs; empty for all outputs.
        is_binary: Whether outputs are binary data unless the request states the form of each output.
    """

    identifier: str | None
    signature: str
    inputs: Mapping[str, ReadInput]
    outputs: list[RequestedOutput]
    is_binary: bool


def read_request(text: Text, binary: memoryview | None, charge: Charge) -> JsonRequest:
    """Return the request in a body.

    Args:
        text: The JSON.
        binary: The bytes after the JSON; None if the request does not state the size of its JSON.
        charge: Called with the bytes of memory that the request uses in addition to its body.

    Raises:
        RequestError: The request is invalid.
    """
    single = _DOUBLE not in text
    request = _read(text, binary, charge, single=single)
    if single and any(tensor.datatype.name == "FP64" for tensor in request.inputs.values()):  # the name has an escape
        return _read(text, binary, charge, single=False)
    return request


def _read(text: Text, binary: memoryview | None, charge: Charge, *, single: bool) -> JsonRequest:
    document = read(text, charge, single=single, members=_MEMBERS)
    given = _parameters(document.get(b"parameters", None), "the request")
    is_binary = parameters.flag(given, parameters.BINARY_DATA_OUTPUT)
    tensors = _Tensors(binary, charge)
    found = by_name([tensors.read(item) for item in _objects(document.get(b"inputs", None), "inputs")])
    tensors.check_end()
    outputs = document.get(b"outputs", None)
    return JsonRequest(
        identifier=_string(document, b"id", "the request"),
        signature=parameters.signature_name(given),
        inputs=found,
        outputs=[
            _output(item, is_binary=is_binary) for item in _objects([] if outputs is None else outputs, "outputs")
        ],
        is_binary=is_binary,
    )


class _Tensors:
    """Reads the inputs, of which some have their contents in the binary data after the JSON.

    Args:
        binary: The binary data, or None.
        charge: Called with the bytes that a tensor uses.
    """

    def __init__(self, binary: memoryview | None, charge: Charge) -> None:
        self._binary = binary
        self._position = 0
        self._charge = charge

    def read(self, item: JsonObject) -> ReadInput:
        """Return the input in an object."""
        name = _name(item, "an input")
        where = f"the input {name!r}"
        given = _parameters(item.get(b"parameters", None), where)
        datatype = datatype_named(_string(item, b"datatype", where) or "", name)
        shape = _shape(item.get(b"shape", None), where)
        contents, size = item.get(b"data", None), given.get(parameters.BINARY_DATA_SIZE)
        if (contents is None) == (size is None):
            raise _malformed(f"{where} must have either data or the parameter {parameters.BINARY_DATA_SIZE}")
        if size is not None:
            raw = self._next(size, where)
            return RawInput(alias=name, datatype=datatype, shape=shape, contents=raw, charge=self._charge)
        if not isinstance(contents, list | Numbers) or (isinstance(contents, Numbers) and not contents.shape):
            raise _malformed(f"data of {where} must be a list")
        return JsonInput(alias=name, datatype=datatype, shape=shape, contents=contents, charge=self._charge)

    def check_end(self) -> None:
        """Check that the inputs have all binary data."""
        if self._binary is not None and self._position != len(self._binary):
            raise _malformed(
                f"the inputs have {self._position} bytes of binary data, but {len(self._binary)} bytes follow the JSON"
            )

    def _next(self, size: Value, where: str) -> memoryview:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise RequestCode.OPEN_INFERENCE_PARAMETER.error(
                f"The parameter {parameters.BINARY_DATA_SIZE} of {where} is invalid: expected a number of bytes."
            )
        if self._binary is None:
            raise _malformed(f"{where} has binary data, but the header {BINARY_HEADER} is missing")
        start, self._position = self._position, self._position + size
        if self._position > len(self._binary):
            raise _malformed(f"{where} has {size} bytes of binary data, but only {len(self._binary) - start} follow")
        return self._binary[start : self._position]


def _output(item: JsonObject, *, is_binary: bool) -> RequestedOutput:
    name = _name(item, "an output")
    given = _parameters(item.get(b"parameters", None), f"the output {name!r}")
    return RequestedOutput(name=name, is_binary=parameters.flag(given, parameters.BINARY_DATA, default=is_binary))


def _objects(items: Any, what: str) -> list[JsonObject]:
    if not isinstance(items, list) or not all(isinstance(item, JsonObject) for item in items):
        raise _malformed(f"{what} must be a list of objects")
    return items


def _name(item: JsonObject, what: str) -> str:
    name = _string(item, b"name", what)
    if name is None:
        raise _malformed(f"{what} has no name")
    return name


def _string(item: JsonObject, member: bytes, where: str) -> str | None:
    value = item.get(member, None)
    if value is not None and not isinstance(value, bytes):
        raise _malformed(f"{member.decode()} of {where} must be a string")
    if value is not None and len(value) > LONGEST_NAME:
        raise _malformed(f"{member.decode()} of {where} is longer than {LONGEST_NAME} bytes")
    return None if value is None else value.decode("utf-8", "surrogateescape")


def _shape(value: Any, where: str) -> tuple[int, ...]:
    if value == []:
        return ()
    if isinstance(value, Numbers) and len(value.shape) == 1 and value.shape[0] <= MAX_RANK:
        sizes = tuple(value)
        if all(isinstance(size, int) for size in sizes):
            return sizes
    raise _malformed(f"shape of {where} must be a list of at most {MAX_RANK} whole numbers")


def _parameters(value: Any, where: str) -> Parameters:
    if value is None:
        return {}
    if not isinstance(value, JsonObject):
        raise _malformed(f"parameters of {where} must be an object")
    found: dict[str, Value] = {}
    for name, given in value.members:
        if not isinstance(given, bytes | bool | int | float | None):
            raise _malformed(f"a parameter of {where} is neither a string, nor a number, nor true or false")
        plain = given.decode("utf-8", "surrogateescape") if isinstance(given, bytes) else given
        found.setdefault(name.decode("utf-8", "surrogateescape"), plain)
    parameters.check(found, where)
    return found


def _malformed(text: str) -> RequestError:
    return RequestCode.OPEN_INFERENCE_FORM.error(f"The request is invalid: {text}.")
