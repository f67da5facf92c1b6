"""Requests of the Open Inference Protocol: each is rejected, or its inputs become complete tensors.

An even first byte selects a gRPC message, and an odd one a body of REST. In a body, two bytes with the size of the JSON
follow, which may be wrong.
"""

import json
import struct
from collections.abc import Iterator, Mapping

from sealserve.serving.open_inference import json_request, methods
from sealserve.serving.open_inference import open_inference_grpc_pb2 as pb
from sealserve.serving.open_inference.datatypes import DATATYPES
from sealserve.serving.open_inference.inputs import RawInput, TypedInput
from sealserve.serving.open_inference.json_request import JsonInput
from sealserve.serving.request_errors import RequestError
from sealserve.serving.runtime.libtensorflow import TensorFlowError, library
from sealserve.serving.runtime.tensors import MAX_RANK
from sealserve.serving.wire.rpc import parsed

LARGEST = 2**16
_SIZE = struct.Struct("<H")


def seeds() -> Iterator[bytes]:
    """Yield valid and invalid requests of each form."""
    for name, datatype in DATATYPES.items():
        raw = b"\1\0\0\0a" if name == "BYTES" else bytes(datatype.size)
        message = pb.ModelInferRequest(model_name="m", id="1", raw_input_contents=[raw])
        message.parameters["binary_data_output"].bool_param = True
        message.inputs.add(name="x", datatype=name, shape=[1])
        yield b"\0" + message.SerializeToString()
        values = {"BYTES": ["a"], "BOOL": [True]}.get(name, [1])
        tensor = {"name": "x", "datatype": name, "shape": [1, 1]}
        for text, binary in (
            ({**tensor, "data": values}, b""),
            ({**tensor, "data": [values]}, b""),
            ({**tensor, "parameters": {"binary_data_size": len(raw)}}, raw),
        ):
            body = json.dumps({"id": "1", "inputs": [text], "outputs": [{"name": "y"}]}).encode()
            yield b"\1" + _SIZE.pack(len(body)) + body + binary
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([1, 200])
    yield b"\0" + message.SerializeToString()


def fuzz(data: bytes) -> None:
    """Read one request."""
    if not data:
        return
    try:
        inputs = _of_body(data[1:]) if data[0] % 2 else _of_message(data[1:])
    except RequestError:
        return
    for alias, given in inputs.items():
        assert given.alias == alias
        if len(given.shape) > MAX_RANK or min(given.shape, default=0) < 0 or given.size > LARGEST:
            continue  # `run_inputs` has refused it
        try:
            tensor = given.tensor(library())
        except (RequestError, TensorFlowError):
            continue
        assert (tensor.dtype, tensor.shape) == (given.dtype, given.shape)


def _of_message(content: bytes) -> Mapping[str, RawInput | TypedInput]:
    found: dict[str, RawInput | TypedInput] = {}

    def read(message: pb.ModelInferRequest, _: float | None) -> pb.ModelInferResponse:
        found.update(methods.read_inputs(message))
        return pb.ModelInferResponse()

    parsed(pb.ModelInferRequest, read)(content, None)
    return found


def _of_body(content: bytes) -> Mapping[str, RawInput | JsonInput]:
    size = _SIZE.unpack(content[:2].ljust(2, b"\0"))[0]
    text, binary = bytearray(content[2 : 2 + size]), memoryview(content)[2 + size :]
    return json_request.read_request(text, binary, lambda _: None).inputs
