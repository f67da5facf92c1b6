"""REST API bodies, valid JSON and other bytes: each is rejected, or parsed to complete tensors.

The first byte selects the signature, and therefore the types of its inputs.
"""

import json
from collections.abc import Iterator
from typing import Any

from sealserve.serving.http.json_answers import Output, render_columns, render_rows
from sealserve.serving.http.json_examples import fill_examples
from sealserve.serving.http.json_kinds import KINDS
from sealserve.serving.http.json_nodes import count
from sealserve.serving.http.json_reader import read
from sealserve.serving.http.json_tensors import read_inputs
from sealserve.serving.http.json_text import quote
from sealserve.serving.http.leaves import Leaves
from sealserve.serving.request_errors import RequestError
from sealserve.serving.runtime.protos import DataType, Input, TensorInfo

TYPES = ("FLOAT", "DOUBLE", "INT8", "INT32", "INT64", "UINT32", "UINT64", "BOOL", "STRING", "HALF")
SIGNATURES = (
    *({"x": TensorInfo(dtype=DataType.Value(f"DT_{name}"))} for name in TYPES),
    {"a": TensorInfo(dtype=DataType.Value("DT_FLOAT")), "b": TensorInfo(dtype=DataType.Value("DT_STRING"))},
)


def seeds() -> Iterator[bytes]:
    """Yield valid and invalid bodies of each form."""
    values: tuple[Any, ...] = (
        1,
        -2.5,
        True,
        None,
        "text",
        {"b64": "AP8="},
        [1, 2],
        [[1], [2]],
        [[1], [2, 3]],
        [],
        [[]],
        {"x": [1]},
    )
    for number in range(len(SIGNATURES)):
        for value in values:
            for key in ("instances", "inputs"):
                yield bytes([number]) + json.dumps({"signature_name": "s", key: value}).encode()
        yield bytes([number]) + json.dumps({"instances": [{"a": [1.5], "b": "c"}, {"a": [2], "b": "d"}]}).encode()
    yield b'\x00{"inputs": [NaN, Infinity, -Infinity, 1e400, 0.1e-400]} and more'
    yield b'\x08{"inputs": ["\\ud83d\\ude00", "\\ud800"]}'
    yield b'\x00{"context": {"a": 1}, "examples": [{"x": [1, 2], "y": ["a"], "z": {"b64": "AA=="}}]}'


def output(leaves: Leaves) -> Output:
    """Return the tensor of an input as an output."""
    if KINDS[leaves.dtype].code:
        content = b"".join(leaves.contents())
        assert len(content) == leaves.size
        return Output(leaves.dtype, leaves.shape, memoryview(content).cast(KINDS[leaves.dtype].code))  # type: ignore[arg-type]  # not empty
    assert len(leaves.strings) == count(leaves.shape)
    return Output(leaves.dtype, leaves.shape, list(leaves.strings))


def fuzz(data: bytes) -> None:
    """Parse ``data`` as a predict request and as a classify request."""
    infos = SIGNATURES[data[0] % len(SIGNATURES)] if data else SIGNATURES[0]
    try:
        document = read(data[1:])
    except RequestError as error:
        json.loads(quote(error.message))
        return
    try:
        inputs, in_rows = read_inputs(document, infos)
    except RequestError as error:
        json.loads(quote(error.message))
    else:
        render = render_rows if in_rows else render_columns
        outputs = {alias: output(leaves) for alias, leaves in inputs.items() if leaves.dtype in KINDS}
        if outputs:
            json.loads(render(outputs).decode("utf-8", "surrogateescape"))
    examples = Input()
    try:
        fill_examples(document, examples)
    except RequestError:
        pass
    else:
        examples.SerializeToString()
