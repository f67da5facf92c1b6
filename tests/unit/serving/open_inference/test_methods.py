"""The gRPC methods of the Open Inference Protocol: types, shapes, signatures, and hostile requests."""

import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sealserve.serving.open_inference import methods
from sealserve.serving.open_inference import open_inference_grpc_pb2 as pb
from sealserve.serving.open_inference.datatypes import DATATYPES
from sealserve.serving.open_inference.service import OpenInference
from sealserve.serving.receipts import Receipts
from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.servables import Servables
from sealserve.serving.wire.lanes import Lane

pytestmark = pytest.mark.tensorflow

LARGEST = 2**20
EXAMPLES: Mapping[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool", [True, False]),
    "UINT8": ("uint8", [0, 255]),
    "UINT16": ("uint16", [0, 2**16 - 1]),
    "UINT32": ("uint32", [0, 2**32 - 1]),
    "UINT64": ("uint64", [0, 2**64 - 1]),
    "INT8": ("int8", [-128, 127]),
    "INT16": ("int16", [-(2**15), 2**15 - 1]),
    "INT32": ("int32", [-(2**31), 2**31 - 1]),
    "INT64": ("int64", [-(2**63), 2**63 - 1]),
    "FP32": ("float32", [1.5, float("-inf")]),
    "FP64": ("float64", [0.1, 1e300]),
    "BYTES": ("string", [b"", b"\xff" * 300]),
}
RAW = {
    "FP16": ("float16", struct.pack("<2e", 1.5, -2.0)),
    "BF16": ("bfloat16", bytes.fromhex("c03f0040")),
}


def service(servables: Servables) -> OpenInference:
    return OpenInference(servables, max_tensor_bytes=LARGEST, is_ready=lambda: True)


def call(servables: Servables, name: str, request: Any, *, deadline: float | None = None) -> Any:
    lane = Lane(running=1, waiting=1)
    routes = methods.routes(service(servables), inference=lane, control=lane, receipts=Receipts(None, servables))
    content = routes[f"/inference.GRPCInferenceService/{name}"].method(request.SerializeToString(), deadline)
    return getattr(pb, f"{name}Response").FromString(content)


def infer(servables: Servables, request: Any) -> Any:
    return call(servables, "ModelInfer", request)


def refused(servables: Servables, request: Any, name: str = "ModelInfer") -> RequestError:
    with pytest.raises(RequestError) as caught:
        call(servables, name, request)
    return caught.value


def numbers(values: list[float], *, raw: bool = False, model: str = "m", name: str = "x") -> Any:
    """Return a request for half_plus_two."""
    request = pb.ModelInferRequest(model_name=model, id="7")
    tensor = request.inputs.add(name=name, datatype="FP32", shape=[len(values)])
    if raw:
        request.raw_input_contents.append(struct.pack(f"<{len(values)}f", *values))
    else:
        tensor.contents.fp32_contents.extend(values)
    return request


def typed(signature: str, datatype: str, values: list[Any], shape: list[int]) -> Any:
    request = pb.ModelInferRequest(model_name="types")
    request.parameters["signature_name"].string_param = signature
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    getattr(tensor.contents, DATATYPES[datatype].field).extend(values)
    return request


def raw(signature: str, datatype: str, content: bytes, shape: list[int]) -> Any:
    request = pb.ModelInferRequest(model_name="types", raw_input_contents=[content])
    request.parameters["signature_name"].string_param = signature
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


@pytest.mark.parametrize("is_raw", [False, True])
def test_the_default_signature_answers_in_the_form_of_the_request(servables: Servables, *, is_raw: bool) -> None:
    answer = infer(servables, numbers([1.0, 2.0, 5.0], raw=is_raw))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "7")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [3])
    if is_raw:
        assert list(answer.raw_output_contents) == [struct.pack("<3f", 2.5, 3.0, 4.5)]
        assert not output.HasField("contents")
    else:
        assert list(output.contents.fp32_contents) == [2.5, 3.0, 4.5]
        assert not answer.raw_output_contents


def test_raw_contents_on_request(servables: Servables) -> None:
    request = numbers([1.0])
    request.parameters["binary_data_output"].bool_param = True
    assert list(infer(servables, request).raw_output_contents) == [struct.pack("<f", 2.5)]


@pytest.mark.parametrize("datatype", EXAMPLES)
@pytest.mark.parametrize("shape", [[2], [1, 2, 1]])
def test_each_type_returns_as_typed_contents(types: Servables, datatype: str, shape: list[int]) -> None:
    signature, values = EXAMPLES[datatype]
    (output,) = infer(types, typed(signature, datatype, values, shape)).outputs
    assert (output.datatype, list(output.shape)) == (datatype, shape)
    assert list(getattr(output.contents, DATATYPES[datatype].field)) == values


def packed(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{DATATYPES[datatype].code}", *values)


@pytest.mark.parametrize("datatype", [*EXAMPLES, *RAW])
def test_each_type_returns_as_raw_contents(types: Servables, datatype: str) -> None:
    signature, values = EXAMPLES.get(datatype) or RAW[datatype]
    content = values if isinstance(values, bytes) else packed(datatype, values)
    answer = infer(types, raw(signature, datatype, content, [2, 1]))
    assert list(answer.raw_output_contents) == [content]
    assert answer.outputs[0].datatype == datatype


def test_tensors_without_elements(types: Servables) -> None:
    for datatype in EXAMPLES:
        (output,) = infer(types, typed(EXAMPLES[datatype][0], datatype, [], [0, 3])).outputs
        assert list(output.shape) == [0, 3]
        assert list(infer(types, raw(EXAMPLES[datatype][0], datatype, b"", [0])).raw_output_contents) == [b""]


def test_a_scalar(types: Servables) -> None:
    (output,) = infer(types, typed("int64", "INT64", [5], [])).outputs
    assert (list(output.shape), list(output.contents.int64_contents)) == ([], [5])


def two_inputs() -> Any:
    request = pb.ModelInferRequest(model_name="m")
    request.parameters["signature_name"].string_param = "two_inputs"
    request.inputs.add(name="b", datatype="FP32").contents.fp32_contents.append(3.0)
    request.inputs.add(name="a", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.0, 2.0])
    return request


def test_a_signature_by_name_and_its_outputs_in_the_requested_order(servables: Servables) -> None:
    request = two_inputs()
    assert [output.name for output in infer(servables, request).outputs] == ["product", "sum"]
    for names in (["sum", "product"], ["product"]):
        del request.outputs[:]
        request.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names)
        assert [output.name for output in infer(servables, request).outputs] == names


def test_a_version_by_number_and_by_label(servables: Servables) -> None:
    servables.set_labels({"m": {"stable": 3}})
    try:
        for version in ("", "3", "0003", "stable"):
            request = numbers([1.0])
            request.model_version = version
            assert infer(servables, request).model_version == "3"
    finally:
        servables.set_labels({})
    expected = {"4": Status.NOT_FOUND, "stable": Status.INVALID_ARGUMENT, str(2**63): Status.INVALID_ARGUMENT}
    for version, status in expected.items():
        request = numbers([1.0])
        request.model_version = version
        assert refused(servables, request).status is status


def test_an_input_with_a_default_may_be_absent(types: Servables) -> None:
    request = pb.ModelInferRequest(model_name="types")
    request.parameters["signature_name"].string_param = "with_default"
    request.inputs.add(name="a", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
    assert list(infer(types, request).outputs[0].contents.fp32_contents) == [11.0]


def test_the_server_and_its_models(servables: Servables) -> None:
    assert call(servables, "ServerLive", pb.ServerLiveRequest()).live
    assert call(servables, "ServerReady", pb.ServerReadyRequest()).ready
    metadata = call(servables, "ServerMetadata", pb.ServerMetadataRequest())
    assert (metadata.name, list(metadata.extensions)) == ("sealserve", ["binary_tensor_data"])
    assert call(servables, "ModelReady", pb.ModelReadyRequest(name="m")).ready
    assert call(servables, "ModelReady", pb.ModelReadyRequest(name="m", version="3")).ready
    for name, version in (("other", ""), ("m", "4")):
        error = refused(servables, pb.ModelReadyRequest(name=name, version=version), "ModelReady")
        assert (error.code, error.status) == ("request.servable-not-found", Status.NOT_FOUND)
    unknown = refused(servables, pb.ModelReadyRequest(name="m", version="stable"), "ModelReady")
    assert unknown.code == RequestCode.MODEL_SPEC


def test_a_server_that_drains_is_not_ready(servables: Servables) -> None:
    draining = OpenInference(servables, max_tensor_bytes=LARGEST, is_ready=lambda: False)
    lane = Lane(running=1, waiting=1)
    routes = methods.routes(draining, inference=lane, control=lane, receipts=Receipts(None, servables))
    assert routes["/inference.GRPCInferenceService/ServerReady"].method(b"", None) == b""
    assert routes["/inference.GRPCInferenceService/ServerLive"].method(b"", None) == b"\x08\x01"


def test_the_metadata_of_a_model(servables: Servables) -> None:
    found = call(servables, "ModelMetadata", pb.ModelMetadataRequest(name="m", version="3"))
    assert (found.name, list(found.versions), found.platform) == ("m", ["3"], "tensorflow_savedmodel")
    ((name, datatype, shape),) = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found.inputs]
    assert (name, datatype, shape) == ("x", "FP32", [-1])
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found.outputs] == [("y", "FP32", [-1])]


def test_a_model_without_the_default_signature_has_no_metadata(types: Servables) -> None:
    error = refused(types, pb.ModelMetadataRequest(name="types"), "ModelMetadata")
    assert (error.code, error.status) == ("request.signature-not-found", Status.FAILED_PRECONDITION)


def test_a_type_that_the_protocol_does_not_have(types: Servables) -> None:
    request = pb.ModelInferRequest(model_name="types")
    request.parameters["signature_name"].string_param = "complex64"
    request.inputs.add(name="x", datatype="COMPLEX", shape=[1])
    error = refused(types, request)
    assert error.code == "request.input-type"
    assert error.message.startswith("The datatype 'COMPLEX' of the input 'x' is unknown: expected BOOL, UINT8,")


def test_the_deadline_counts(servables: Servables) -> None:
    with pytest.raises(RequestError) as caught:
        call(servables, "ModelInfer", numbers([1.0]), deadline=time.monotonic() - 1)
    assert caught.value.status is Status.DEADLINE_EXCEEDED


def test_requests_are_counted(servables: Servables) -> None:
    servables.metrics.serve(["m"])
    infer(servables, numbers([1.0]))
    refused(servables, numbers([1.0], name="z"))
    page = servables.metrics.page()
    assert ':request_count{model_name="m",status="OK"}' in page
    assert ':request_count{model_name="m",status="INVALID_ARGUMENT"}' in page
    assert ':request_latency_count{model_name="m",API="ModelInfer",entrypoint="GRPC"}' in page


# Hostile requests.


@pytest.mark.parametrize(
    ("shape", "content", "message"),
    [
        ([2], b"\0" * 7, "the shape [2] requires 8 bytes, got 7"),
        ([2], b"\0" * 12, "the shape [2] requires 8 bytes, got 12"),
        ([], b"\0" * 8, "the shape [] requires 4 bytes, got 8"),
        ([0, 2**20], b"\0", "requires 0 bytes, got 1"),
        ([-1], b"", "tensor parsing error: x"),
        ([-(2**63), -(2**63)], b"", "tensor parsing error: x"),
        ([2**32, 2**32], b"", "input 'x' exceeds the limit of 1048576 bytes (--max_message_bytes)"),
        ([2**63 - 1] * 254, b"\0" * 4, "input 'x' exceeds the limit"),
        ([1] * 255, b"\0" * 4, "tensor parsing error: x"),
        ([1] * 100_000, b"\0" * 4, "tensor parsing error: x"),
        ([2**18 + 1], b"", "input 'x' exceeds the limit"),
    ],
)
def test_raw_contents_that_do_not_fit_their_shape(
    types: Servables, shape: list[int], content: bytes, message: str
) -> None:
    error = refused(types, raw("float32", "FP32", content, shape))
    assert (error.code, error.status) == ("request.input-tensor", Status.INVALID_ARGUMENT)
    assert message in error.message


@pytest.mark.parametrize("shape", [[2**62, 2**62, 0], [2**63 - 1, 0], [0, 2**21]])
@pytest.mark.parametrize("is_raw", [True, False])
def test_empty_tensors_whose_other_sizes_are_huge_are_refused(
    servables: Servables, shape: list[int], *, is_raw: bool
) -> None:
    request = numbers([], raw=is_raw)
    request.inputs[0].shape[:] = shape
    assert refused(servables, request).code == "request.input-shape"


@pytest.mark.parametrize(
    "message",
    [
        pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor(name=f"{n:06}") for n in range(20_000)]),
        pb.ModelInferRequest(outputs=[pb.ModelInferRequest.InferRequestedOutputTensor()] * 100_000),
        pb.ModelInferRequest(raw_input_contents=[b""] * 100_000),
        pb.ModelInferRequest(
            inputs=[
                pb.ModelInferRequest.InferInputTensor(
                    parameters={f"{number:06}": pb.InferParameter() for number in range(20_000)}
                )
            ]
        ),
    ],
    ids=["inputs", "outputs", "contents", "parameters"],
)
def test_messages_that_would_become_many_objects_are_refused_before_they_are_parsed(
    servables: Servables, message: Any
) -> None:
    error = refused(servables, message)
    assert (error.code, error.message) == ("request.malformed", "The request has more than 4096 fields.")


def test_names_that_are_too_long(servables: Servables) -> None:
    request = numbers([1.0], name="x" * 5000)
    assert refused(servables, request).message == "The name of an input is longer than 4096 characters."
    request = numbers([1.0])
    request.outputs.add(name="y" * 5000)
    assert refused(servables, request).message == "The name of an output is longer than 4096 characters."


@pytest.mark.parametrize(
    ("shape", "content", "message"),
    [
        ([1], b"", "the shape [1] requires 1 elements, got 0"),
        ([1], b"\1\0\0", "the shape [1] requires 1 elements, got 0"),
        ([2], b"\1\0\0\0a", "the shape [2] requires 2 elements, got 1"),
        ([1], b"\2\0\0\0a", "the length of element 0 is larger than the rest of the contents"),
        ([1], b"\xff\xff\xff\xff", "the length of element 0 is larger than the rest of the contents"),
        ([1], b"\1\0\0\0abc", "2 bytes follow the last element"),
        ([0], b"\0\0\0\0", "4 bytes follow the last element"),
        ([2**15, 2], b"", "input 'x' exceeds the limit"),
    ],
)
def test_raw_strings_with_wrong_lengths(types: Servables, shape: list[int], content: bytes, message: str) -> None:
    error = refused(types, raw("string", "BYTES", content, shape))
    assert error.code == "request.input-tensor"
    assert message in error.message


def test_raw_bools_are_zero_or_one(types: Servables) -> None:
    error = refused(types, raw("bool", "BOOL", b"\1\2", [2]))
    assert error.message == "The contents of the input 'x' are invalid: expected bytes of the value 0 or 1."


@pytest.mark.parametrize(
    ("signature", "datatype", "values"),
    [
        ("int8", "INT8", [128]),
        ("int16", "INT16", [-(2**15) - 1]),
        ("uint8", "UINT8", [256]),
        ("uint16", "UINT16", [2**16]),
    ],
)
def test_typed_values_out_of_range(types: Servables, signature: str, datatype: str, values: list[int]) -> None:
    error = refused(types, typed(signature, datatype, values, [1]))
    assert error.code == "request.input-tensor"
    assert error.message.endswith(f"a value is outside of the range of {datatype}.")


@pytest.mark.parametrize(("count", "shape"), [(1, [2]), (3, [2]), (2, []), (0, [])])
def test_typed_values_that_do_not_fit_their_shape(types: Servables, count: int, shape: list[int]) -> None:
    error = refused(types, typed("float32", "FP32", [1.0] * count, shape))
    assert f"elements in fp32_contents, got {count}" in error.message


def test_values_in_the_field_of_another_type(types: Servables) -> None:
    request = typed("float32", "FP32", [], [1])
    request.inputs[0].contents.fp64_contents.append(1.0)
    assert "requires 1 elements in fp32_contents, got 0" in refused(types, request).message


def test_half_floats_need_raw_contents(types: Servables) -> None:
    for datatype, (signature, _) in RAW.items():
        request = pb.ModelInferRequest(model_name="types")
        request.parameters["signature_name"].string_param = signature
        request.inputs.add(name="x", datatype=datatype, shape=[1]).contents.fp32_contents.append(1.0)
        assert f"{datatype} requires raw contents" in refused(types, request).message


def test_contents_and_raw_contents_at_once(servables: Servables) -> None:
    request = numbers([1.0])
    request.raw_input_contents.append(b"\0" * 4)
    error = refused(servables, request)
    assert error.code == RequestCode.OPEN_INFERENCE_FORM
    assert error.message.startswith("The input 'x' has contents, but the request has raw_input_contents.")
    request.raw_input_contents.append(b"")
    assert "expected the contents of 1 inputs, got 2" in refused(servables, request).message


def test_inputs_that_are_missing_unknown_or_repeated(servables: Servables) -> None:
    assert refused(servables, pb.ModelInferRequest(model_name="m")).code == "request.input-names"
    assert refused(servables, numbers([1.0], name="z")).code == "request.input-names"
    request = numbers([1.0])
    request.inputs.append(request.inputs[0])
    error = refused(servables, request)
    assert (error.code, error.message) == ("request.open-inference-form", "The input 'x' occurs twice.")
    request = two_inputs()
    del request.inputs[0]
    assert refused(servables, request).code == "request.input-names"


def test_outputs_that_are_unknown_or_repeated(servables: Servables) -> None:
    for names in (["z"], ["y", "y"]):
        request = numbers([1.0])
        request.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names)
        assert refused(servables, request).code == "request.output-filter"


def test_a_datatype_that_the_signature_does_not_have(servables: Servables) -> None:
    request = numbers([1.0])
    request.inputs[0].datatype = "INT32"
    request.inputs[0].contents.int_contents.append(1)
    assert refused(servables, request).code == "request.input-type"


def test_models_and_signatures_that_are_not_there(servables: Servables) -> None:
    assert refused(servables, numbers([1.0], model="other")).status is Status.NOT_FOUND
    assert refused(servables, numbers([1.0], model="")).code == "request.model-spec"
    request = numbers([1.0])
    request.parameters["signature_name"].string_param = "nonsense"
    assert refused(servables, request).code == "request.signature-not-found"


@pytest.mark.parametrize(
    "name", ["shared_memory_region", "shared_memory_byte_size", "classification", "sequence_id", "sequence_end"]
)
def test_parameters_of_other_extensions_are_refused_where_they_change_the_answer(
    servables: Servables, name: str
) -> None:
    places: dict[str, Callable[[Any], Any]] = {
        "the request": lambda request: request,
        "the input 'x'": lambda request: request.inputs[0],
        "the output 'y'": lambda request: request.outputs.add(name="y"),
    }
    for where, place in places.items():
        request = numbers([1.0])
        place(request).parameters[name].int64_param = 1
        error = refused(servables, request)
        assert error.code == "request.open-inference-parameter"
        assert error.message.startswith(f"The parameter {name} of {where} is not supported: ")


def test_parameters_of_the_wrong_type_and_hints_for_other_servers(servables: Servables) -> None:
    for name in ("signature_name", "binary_data_output"):
        request = numbers([1.0])
        request.parameters[name].int64_param = 1
        assert refused(servables, request).code == "request.open-inference-parameter"
    request = numbers([1.0])
    request.parameters["signature_name"].SetInParent()
    request.parameters["priority"].uint64_param = 1
    request.inputs[0].parameters["content_type"].string_param = "np"
    assert infer(servables, request).id == "7"


def test_bytes_that_are_not_a_message(servables: Servables) -> None:
    lane = Lane(running=1, waiting=1)
    routes = methods.routes(service(servables), inference=lane, control=lane, receipts=Receipts(None, servables))
    for route in routes.values():
        with pytest.raises(RequestError) as caught:
            route.method(b"\xff", None)
        assert caught.value.code == RequestCode.MALFORMED
