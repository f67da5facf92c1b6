"""The REST resources of the Open Inference Protocol: JSON, binary tensors, and hostile requests."""

import json
import math
import struct
from typing import Any

import pytest
from tests.unit.serving.open_inference.test_methods import EXAMPLES, RAW, packed

from sealserve.serving.http.api import Answer
from sealserve.serving.http.memory import Loan
from sealserve.serving.open_inference.rest import OpenInferenceRest, unknown_resource
from sealserve.serving.open_inference.service import OpenInference
from sealserve.serving.request_errors import RequestCode
from sealserve.serving.servables import Servables
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving_interface import BINARY_HEADER

pytestmark = pytest.mark.tensorflow

LARGEST = 2**20
INFER = "/v2/models/m/infer"


def rest(servables: Servables, *, ready: bool = True) -> OpenInferenceRest:
    return OpenInferenceRest(OpenInference(servables, max_tensor_bytes=LARGEST, is_ready=lambda: ready))


def post(servables: Servables, body: Any, path: str = INFER, binary: bytes | None = None) -> Answer:
    """Send a request: JSON, and binary data after it if it is not None."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [] if binary is None else [(BINARY_HEADER.lower(), str(len(text)))]
    return rest(servables).answer("POST", path, bytearray(text + (binary or b"")), None, headers=headers)


def get(servables: Servables, path: str, *, ready: bool = True) -> tuple[int, Any]:
    answer = rest(servables, ready=ready).answer("GET", path, b"", None)
    return answer.status, json.loads(answer.body)


def result(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    assert not answer.headers
    return json.loads(answer.body)


def parts(answer: Answer) -> tuple[Any, bytes]:
    """Return the JSON and the binary data of a response."""
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/octet-stream"
    size = int(answer.headers[BINARY_HEADER])
    return json.loads(answer.body[:size]), answer.body[size:]


def refusal(answer: Answer, status: int = 400) -> str:
    assert answer.status == status, answer.body
    (text,) = json.loads(answer.body).values()
    assert list(json.loads(answer.body)) == ["error"]
    return str(text)


def numbers(data: Any, shape: list[int] | None = None, **members: Any) -> dict[str, Any]:
    shape = [len(data)] if shape is None else shape
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}], **members}


def test_an_answer_in_json(servables: Servables) -> None:
    assert result(post(servables, numbers([1.0, 2, 5.0], id="7"))) == {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [3], "data": [2.5, 3.0, 4.5]}],
    }
    assert "id" not in result(post(servables, numbers([1.0])))
    assert result(post(servables, numbers([1.0], id=None, parameters=None, outputs=None)))["model_name"] == "m"
    odd = 'say "\N{SNOWMAN}"\n'
    assert result(post(servables, numbers([1.0], id=odd)))["id"] == odd


def test_a_version_in_the_path(servables: Servables) -> None:
    for path in ("/v2/models/m/versions/3/infer", "/v2/models/%6d/infer?a=b"):
        assert result(post(servables, numbers([1.0]), path))["model_version"] == "3"
    assert post(servables, numbers([1.0]), "/v2/models/m/versions/4/infer").status == 404


@pytest.mark.parametrize("datatype", EXAMPLES)
@pytest.mark.parametrize("nested", [False, True])
def test_each_type_in_json(types: Servables, datatype: str, *, nested: bool) -> None:
    signature, values = EXAMPLES[datatype]
    data: list[Any] = [value for value in values if not (isinstance(value, float) and math.isinf(value))]
    data = [*data, *data][:2] if datatype != "BYTES" else ["", "\N{SNOWMAN}" * 100]
    body = {
        "parameters": {"signature_name": signature},
        "inputs": [
            {"name": "x", "shape": [2, 1], "datatype": datatype, "data": [[item] for item in data] if nested else data}
        ],
    }
    (output,) = result(post(types, body, "/v2/models/types/infer"))["outputs"]
    assert output == {"name": "y", "datatype": datatype, "shape": [2, 1], "data": data}


def binary_input(signature: str, datatype: str, size: Any, shape: list[int], **parameters: Any) -> dict[str, Any]:
    return {
        "parameters": {"signature_name": signature, **parameters},
        "inputs": [{"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}],
    }


@pytest.mark.parametrize("datatype", [*EXAMPLES, *RAW])
def test_each_type_as_binary_data(types: Servables, datatype: str) -> None:
    signature, values = EXAMPLES.get(datatype) or RAW[datatype]
    content = values if isinstance(values, bytes) else packed(datatype, values)
    body = binary_input(signature, datatype, len(content), [1, 2], binary_data_output=True)
    document, binary = parts(post(types, body, "/v2/models/types/infer", content))
    assert document["outputs"] == [
        {"name": "y", "datatype": datatype, "shape": [1, 2], "parameters": {"binary_data_size": len(content)}}
    ]
    assert binary == content


def test_numbers_that_are_not_finite(servables: Servables) -> None:
    answer = post(
        servables, b'{"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [NaN, Infinity, -Inf]}]}'
    )
    first, second, third = result(answer)["outputs"][0]["data"]
    assert math.isnan(first)
    assert (second, third) == (math.inf, -math.inf)


def test_doubles_keep_their_digits_however_the_type_is_written(types: Servables) -> None:
    for name in (b"FP64", b"\\u0046P64"):
        body = (
            b'{"parameters": {"signature_name": "float64"}, "inputs": [{"name": "x", "shape": [1], "datatype": "'
            + name
            + b'", "data": [0.1]}]}'
        )
        assert result(post(types, body, "/v2/models/types/infer"))["outputs"][0]["data"] == [0.1]


def test_outputs_without_elements_and_scalars(types: Servables) -> None:
    def body(shape: list[int], data: Any) -> Any:
        named = {"name": "x", "shape": shape, "datatype": "INT64", "data": data}
        return {"parameters": {"signature_name": "int64"}, "inputs": [named]}

    for shape, data in (([0], []), ([2, 0], [[], []]), ([2, 0], []), ([], [5])):
        (output,) = result(post(types, body(shape, data), "/v2/models/types/infer"))["outputs"]
        assert (output["shape"], output["data"]) == (shape, [5] if data == [5] else [])


def test_each_output_in_its_own_form(servables: Servables) -> None:
    body = {
        "parameters": {"signature_name": "two_inputs"},
        "inputs": [
            {"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "b", "shape": [], "datatype": "FP32", "data": [3.0]},
        ],
        "outputs": [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "product"}],
    }
    document, binary = parts(post(servables, body, binary=struct.pack("<2f", 1, 2)))
    assert [output["name"] for output in document["outputs"]] == ["sum", "product"]
    assert document["outputs"][1]["data"] == [3.0, 6.0]
    assert struct.unpack("<2f", binary) == (4.0, 5.0)


def test_the_form_of_an_output_replaces_the_form_of_the_request(servables: Servables) -> None:
    members: dict[str, Any] = {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
    }
    assert result(post(servables, numbers([1.0], **members)))["outputs"][0]["data"] == [2.5]
    assert parts(post(servables, numbers([1.0], parameters={"binary_data_output": True})))[1] == struct.pack("<f", 2.5)


def test_a_large_answer_is_written_in_pieces(servables: Servables) -> None:
    values = [float(number) for number in range(20_000)]
    assert result(post(servables, numbers(values)))["outputs"][0]["data"] == [value / 2 + 2 for value in values]


def test_outputs_that_json_cannot_represent(types: Servables) -> None:
    cases = {"FP16": ("float16", RAW["FP16"][1]), "BYTES": ("string", packed("BYTES", [b"\xff", b""]))}
    for datatype, (signature, content) in cases.items():
        body = binary_input(signature, datatype, len(content), [2])
        text = refusal(post(types, body, "/v2/models/types/infer", content))
        assert text.startswith("The output 'y' cannot be written in JSON: ")
        assert "binary_data_output" in text


def test_the_server_and_its_models(servables: Servables) -> None:
    assert get(servables, "/v2/health/live") == (200, {"live": True})
    assert get(servables, "/v2/health/ready") == (200, {"ready": True})
    assert get(servables, "/v2/health/ready", ready=False) == (503, {"ready": False})
    status, server = get(servables, "/v2")
    assert (status, server["name"], server["extensions"]) == (200, "sealserve", ["binary_tensor_data"])
    for path in ("/v2/models/m/ready", "/v2/models/m/versions/3/ready"):
        assert get(servables, path) == (200, {"name": "m", "ready": True})
    for path in ("/v2/models/other/ready", "/v2/models/m/versions/9/ready", "/v2/models/other"):
        assert get(servables, path)[0] == 404
    assert get(servables, "/v2/models/m") == get(servables, "/v2/models/m/versions/3")
    assert get(servables, "/v2/models/m") == (
        200,
        {
            "name": "m",
            "versions": ["3"],
            "platform": "tensorflow_savedmodel",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
        },
    )


def test_requests_are_counted(servables: Servables) -> None:
    servables.metrics.serve(["m"])
    post(servables, numbers([1.0]))
    post(servables, b"{")
    page = servables.metrics.page()
    assert ':request_latency_count{model_name="m",API="infer",entrypoint="REST"}' in page
    assert ':request_count{model_name="m",status="INVALID_ARGUMENT"}' in page


# Hostile requests.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/"),
        ("POST", "/v2"),
        ("GET", INFER),
        ("PUT", INFER),
        ("POST", "/v2/models/m"),
        ("GET", "/v2/models"),
        ("GET", "/v2/models//ready"),
        ("GET", "/v2/models/m/config"),
        ("GET", "/v2/models/m/stats"),
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/cudasharedmemory/region/a/register"),
        ("GET", "/v2/trace/setting"),
        ("GET", "/v2/logging"),
        ("GET", "/v2/\n"),
        ("POST", f"/v2/{'x' * 5000}"),
    ],
)
def test_resources_that_the_protocol_does_not_have(servables: Servables, method: str, path: str) -> None:
    answer = rest(servables).answer(method, path, b"", None)
    assert refusal(answer, 404).startswith("The Open Inference Protocol does not have ")
    assert unknown_resource(method, path).code == RequestCode.OPEN_INFERENCE_PATH
    assert len(answer.body) < 500


def test_which_paths_are_of_this_api() -> None:
    known = {path for path in ("/v2", "/v2?a", "/v2/x", "/v2x", "/V2/x", "/v1/x", "/") if OpenInferenceRest.knows(path)}
    assert known == {"/v2", "/v2?a", "/v2/x"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"[]", "JSON Value: <hidden> Is not object"),
        (b'{"inputs": [}', "JSON Parse error"),
        ({}, "inputs must be a list of objects"),
        ({"inputs": 1}, "inputs must be a list of objects"),
        ({"inputs": [1]}, "inputs must be a list of objects"),
        ({"inputs": {}}, "inputs must be a list of objects"),
        ({"inputs": [{"b64": "YQ=="}]}, "inputs must be a list of objects"),
        ({"inputs": [{}]}, "an input has no name"),
        ({"inputs": [{"name": 1}]}, "name of an input must be a string"),
        ({"inputs": [{"name": "x"}]}, "The datatype '' of the input 'x' is unknown: expected BOOL"),
        ({"inputs": [{"name": "x", "datatype": "FP128"}]}, "The datatype 'FP128' of the input 'x' is unknown"),
        ({"inputs": [{"name": "x", "datatype": "FP32"}]}, "shape of the input 'x' must be a list"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "must have either data or the parameter"),
        (numbers([1.0], [1.5]), "shape of the input 'x' must be a list"),  # type: ignore[list-item]
        (numbers([1.0], [2**70]), "shape of the input 'x' must be a list"),
        (numbers([1.0], [True]), "shape of the input 'x' must be a list"),
        (numbers([1.0], [[1]]), "shape of the input 'x' must be a list"),  # type: ignore[list-item]
        (numbers([1.0], [1] * 255), "shape of the input 'x' must be a list of at most 254 whole numbers"),
        (numbers([1.0], [-1]), "tensor parsing error: x"),
        (numbers([1.0], [2**64 - 1]), "input 'x' exceeds the limit of 1048576 bytes"),
        (numbers([1.0], [2**63 - 1] * 254), "input 'x' exceeds the limit of 1048576 bytes"),
        (numbers(1.0, [1]), "data of the input 'x' must be a list"),
        (numbers("text", [1]), "data of the input 'x' must be a list"),
        (numbers([1.0], [2]), "the shape [2] requires 2 elements, got 1"),
        (numbers([[1.0, 2.0]], [2]), "expected a list of 2 elements, or lists nested like [2]"),
        (numbers([[1.0], [2.0, 3.0]], [2, 1]), "its lists differ in length, or its values differ in type"),
        (numbers([[1.0], 2.0], [2, 1]), "its lists differ in length, or its values differ in type"),
        (numbers([1.0, "a"]), "FP32 requires numbers"),
        (numbers([True]), "FP32 requires numbers"),
        (numbers([None]), "FP32 requires numbers"),
        (numbers([{}]), "FP32 requires numbers"),
        (numbers([1.0], parameters=1), "parameters of the request must be an object"),
        (numbers([1.0], parameters={"a": [1]}), "a parameter of the request is neither a string"),
        (numbers([1.0], parameters={"signature_name": 1}), "The parameter signature_name is invalid"),
        (numbers([1.0], parameters={"signature_name": "x"}), 'Serving signature key "x" not found.'),
        (numbers([1.0], parameters={"binary_data_output": 1}), "The parameter binary_data_output is invalid"),
        (numbers([1.0], parameters={"sequence_id": 5}), "The parameter sequence_id of the request is not supported"),
        (
            numbers([1.0], outputs=[{"name": "y", "parameters": {"classification": 2}}]),
            "classification of the output 'y'",
        ),
        (numbers([1.0], outputs=[{"name": "z"}]), "output tensor alias not found in signature: z"),
        (numbers([1.0], outputs=[{"name": "y"}, {"name": "y"}]), "duplicate output tensor alias: y"),
        (numbers([1.0], outputs=[{}]), "an output has no name"),
        (numbers([1.0], id=7), "id of the request must be a string"),
        (numbers([1.0], id="i" * 5000), "id of the request is longer than 4096 bytes"),
        ({"inputs": [{"name": "x" * 5000}]}, "name of an input is longer than 4096 bytes"),
        (numbers([1.0], outputs=0), "outputs must be a list of objects"),
        (numbers([1.0], outputs=False), "outputs must be a list of objects"),
        (numbers([], [2**63, 0]), "is empty and has the shape [9223372036854775808,0]"),
        (numbers([], [0, 2**21]), "is empty and has the shape [0,2097152]"),
        ({"inputs": numbers([1.0])["inputs"] * 2}, "The input 'x' occurs twice."),
        ({"inputs": []}, "input size does not match signature"),
    ],
)
def test_documents_that_are_refused(servables: Servables, body: Any, text: str) -> None:
    assert text in refusal(post(servables, body))


@pytest.mark.parametrize(
    ("datatype", "data", "text"),
    [
        ("INT8", [128], "a value is outside of the range of INT8"),
        ("UINT8", [-1], "a value is outside of the range of UINT8"),
        ("UINT64", [-1], "a value is outside of the range of UINT64"),
        ("INT64", [2**63], "a value is outside of the range of INT64"),
        ("UINT64", [2**64], "UINT64 requires whole numbers"),
        ("INT32", [1.5], "INT32 requires whole numbers"),
        ("INT32", [1, 1.5], "INT32 requires whole numbers"),
        ("BOOL", [1], "BOOL requires true or false"),
        ("BYTES", [1], "BYTES requires strings"),
        ("BYTES", [True], "BYTES requires strings"),
        ("BYTES", [{"b64": "YQ=="}], "BYTES requires strings"),
        ("FP16", [1.0], "JSON cannot represent FP16: send the tensor as binary data"),
        ("BF16", [1.0], "JSON cannot represent BF16: send the tensor as binary data"),
        ("FP16", ["a"], "JSON cannot represent FP16: send the tensor as binary data"),
    ],
)
def test_values_of_another_type(types: Servables, datatype: str, data: list[Any], text: str) -> None:
    signature = {**EXAMPLES, **RAW}[datatype][0]
    body = {
        "parameters": {"signature_name": signature},
        "inputs": [{"name": "x", "shape": [len(data)], "datatype": datatype, "data": data}],
    }
    assert text in refusal(post(types, body, "/v2/models/types/infer"))


def test_a_number_that_is_too_large_for_json(servables: Servables) -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1e400]}]}'
    assert "Number too big" in refusal(post(servables, body))


@pytest.mark.parametrize(
    "values", [["-1"], ["1.5"], [""], ["a"], ["0x10"], ["+1"], [" 1"], ["1" * 20], ["100000"], ["5", "5"]]
)
def test_a_size_of_the_json_that_is_invalid(servables: Servables, values: list[str]) -> None:
    headers = [(BINARY_HEADER, value) for value in values]
    answer = rest(servables).answer("POST", INFER, b"{}" * 50, None, headers=headers)
    assert refusal(answer) == (
        f"The header {BINARY_HEADER} is invalid: expected a number of at most 100 bytes, the size of the body."
    )


def test_the_json_ends_where_the_header_says(servables: Servables) -> None:
    text = json.dumps(numbers([1.0])).encode()
    for size in (0, 1, len(text) - 1):
        answer = rest(servables).answer("POST", INFER, bytearray(text), None, headers=[(BINARY_HEADER, str(size))])
        assert "JSON Parse error" in refusal(answer)


@pytest.mark.parametrize(
    ("size", "content", "text"),
    [
        (8, b"\0" * 7, "the input 'x' has 8 bytes of binary data, but only 7 follow"),
        (8, b"\0" * 9, "the inputs have 8 bytes of binary data, but 9 bytes follow the JSON"),
        (4, b"\0" * 4, "the shape [2] requires 8 bytes, got 4"),
        (0, b"", "the shape [2] requires 8 bytes, got 0"),
        (-1, b"", "The parameter binary_data_size of the input 'x' is invalid"),
        (2**64, b"", "the input 'x' has 18446744073709551616 bytes"),
        (True, b"", "The parameter binary_data_size of the input 'x' is invalid"),
        (8.0, b"\0" * 8, "The parameter binary_data_size of the input 'x' is invalid"),
        ("8", b"\0" * 8, "The parameter binary_data_size of the input 'x' is invalid"),
        (8, None, f"the input 'x' has binary data, but the header {BINARY_HEADER} is missing"),
    ],
)
def test_binary_data_of_the_wrong_size(types: Servables, size: Any, content: bytes | None, text: str) -> None:
    body = binary_input("float32", "FP32", size, [2])
    if size == 2**64:
        text = "The parameter binary_data_size of the input 'x' is invalid"  # JSON converts it to a double
    assert text in refusal(post(types, body, "/v2/models/types/infer", content))


def test_data_and_binary_data_at_once(servables: Servables) -> None:
    body = numbers([1.0])
    body["inputs"][0]["parameters"] = {"binary_data_size": 4}
    assert "must have either data or the parameter binary_data_size" in refusal(post(servables, body, binary=b"\0" * 4))


def test_shared_memory_is_refused(servables: Servables) -> None:
    for name in ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"):
        body = numbers([1.0])
        body["inputs"][0]["parameters"] = {name: 1}
        text = refusal(post(servables, body))
        assert text.startswith(f"The parameter {name} of the input 'x' is not supported: a client cannot share memory")


def test_a_document_uses_memory_within_the_allowance(servables: Servables) -> None:
    text = json.dumps(numbers([1.0] * 10_000)).encode()
    allowance = Allowance(2 * len(text))
    for _ in range(3):
        with Loan(allowance) as loan:
            loan.take(len(text))
            answer = rest(servables).answer("POST", INFER, bytearray(text), None, loan)
        assert refusal(answer, 429) == "The server is busy: the memory for requests is full."
    assert allowance.take(2 * len(text))


def test_deeply_nested_data(servables: Servables) -> None:
    for data in (b"[" * 100_000 + b"1" + b"]" * 100_000, b'[["a"],' * 1000 + b"1" + b"]" * 1000):
        body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": ' + data + b"}]}"
        assert "The contents of the input 'x' are invalid" in refusal(post(servables, body))
        assert "must be a list of" in refusal(post(servables, b'{"inputs": ' + data + b"}"))
