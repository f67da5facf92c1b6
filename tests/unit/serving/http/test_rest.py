import json
import math
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises

from sealserve.serving.http.api import HTTP_STATUS, Answer
from sealserve.serving.http.json_answers import Output, render_columns, render_rows
from sealserve.serving.http.json_errors import JsonFormError, JsonTypeError
from sealserve.serving.http.json_reader import read
from sealserve.serving.http.json_tensors import read_inputs
from sealserve.serving.http.rest import Rest
from sealserve.serving.request_errors import RequestCode, Status, short
from sealserve.serving.runtime.protos import DataType, TensorInfo
from sealserve.serving.servables import Servables

pytestmark = pytest.mark.tensorflow

CANARY = "canary-771177"
FLOAT = DataType.Value("DT_FLOAT")


@pytest.fixture(scope="module")
def rest(servables: Servables, types: Servables, examples: Servables) -> Rest:
    everything = Servables()
    for name, table in (("m", servables), ("types", types), ("examples", examples)):
        (entry,) = table.states(name).values()
        assert entry.servable is not None
        everything.publish(entry.servable)
    everything.set_labels({"m": {"stable": 3}})
    return Rest(everything, max_tensor_bytes=2**20)


def ask(rest: Rest, path: str, body: Any = None, method: str = "") -> Answer:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return rest.answer(method or ("GET" if body is None else "POST"), path, content, None)


def answered(rest: Rest, path: str, body: Any = None) -> Any:
    answer = ask(rest, path, body)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def error(rest: Rest, path: str, body: Any = None, method: str = "") -> tuple[int, str]:
    answer = ask(rest, path, body, method)
    document = json.loads(answer.body)
    assert set(document) == {"error"}
    return answer.status, document["error"]


PREDICT = "/v1/models/m:predict"
TYPES = "/v1/models/types:predict"


# --- predict ----------------------------------------------------------------------------------------------------------


def test_rows(rest: Rest) -> None:
    answer = ask(rest, PREDICT, {"instances": [1.0, 2, 5.0]})
    assert answer == Answer(200, b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}')


def test_columns(rest: Rest) -> None:
    answer = ask(rest, PREDICT, {"inputs": [1.0, 2.0]})
    assert answer == Answer(200, b'{\n    "outputs": [\n        2.5,\n        3.0\n    ]\n}')


def test_named_inputs_and_outputs(rest: Rest) -> None:
    outputs = {"signature_name": "two_inputs", "inputs": {"a": [[1.0, 2.0]], "b": 3}}
    assert answered(rest, PREDICT, outputs) == {"outputs": {"sum": [[4.0, 5.0]], "product": [[3.0, 6.0]]}}
    rows = {"signature_name": "words", "instances": ["a", "x"]}
    answer = ask(rest, PREDICT, rows)
    assert answer.body.decode() == (
        '{\n    "predictions": [\n'
        '        {\n            "known": 1,\n            "twice": "aa"\n        },\n'
        '        {\n            "known": -1,\n            "twice": "xx"\n        }\n'
        "    ]\n}"
    )
    named = {"signature_name": "words", "instances": [{"words": "a"}, {"words": {"b64": "/w=="}}]}
    assert ask(rest, PREDICT, named).body.count(b"\xff\xff") == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/m/versions/3:predict",
        "/v1/models/m/labels/stable:predict",
        "/V1/Models/m:predict",
        "/v1/models/%6d:predict",
    ],
)
def test_a_version_or_a_label_is_meant(rest: Rest, path: str) -> None:
    assert answered(rest, path, {"instances": [1]}) == {"predictions": [2.5]}


@pytest.mark.parametrize("path", ["/v1/models/m/versions/{}", "/v1/models/m/versions/{}/metadata"])
def test_a_version_is_a_number_of_64_bits_however_it_is_written(rest: Rest, path: str) -> None:
    for version in ("3", "03", "0" * 5000 + "3"):
        assert ask(rest, path.format(version)).status == 200
        assert answered(rest, f"/v1/models/m/versions/{version}:predict", {"instances": [1]}) == {"predictions": [2.5]}
    for version in ("0", "4", "0" * 5000, str(2**63 - 1)):
        assert error(rest, path.format(version))[0] == 404
    for version in (str(2**63), "18446744073709551616", "9" * 4301, "9" * 100_000):
        expected = short(f"Failed to convert version: {version} to numeric.")
        assert error(rest, path.format(version)) == (400, expected)
        assert error(rest, f"/v1/models/m/versions/{version}:predict", {"instances": [1]}) == (400, expected)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", [0.5, -2, 1e30, 0.2, 123456789.0, 1e-30]),
        ("float64", [0.1, -2, 1e300, 0.30000000000000004]),
        ("int8", [-128, 127]),
        ("uint8", [0, 255]),
        ("int16", [-(2**15), 2**15 - 1]),
        ("int32", [-(2**31), 2**31 - 1]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint32", [0, 2**32 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("bool", [True, False]),
        ("string", ["", '€"\\\n\u0001', "x" * 40]),
    ],
)
@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_each_type_returns_as_it_went_in(rest: Rest, dtype: str, values: list[Any], form: str) -> None:
    key = {"instances": "predictions", "inputs": "outputs"}[form]
    for given in (values, [values, values], [[[value]] for value in values]):
        returned = answered(rest, TYPES, {"signature_name": dtype, form: given})[key]
        if dtype == "float32":
            assert np.array_equal(np.array(returned, np.float32), np.array(given, np.float32))
        else:
            assert returned == given
    if form == "inputs":
        assert answered(rest, TYPES, {"signature_name": dtype, form: values[0]})[key] == values[0]
        assert answered(rest, TYPES, {"signature_name": dtype, form: []})[key] == []


def test_numbers_are_written_as_tensorflow_serving_writes_them(rest: Rest) -> None:
    values = b"0.2, 9000000, 0.00003, 1, 16777216, 0.1234567, NaN, Infinity, -Infinity"
    numbers = b'{"signature_name": "float32", "inputs": [' + values + b"]}"
    text = ask(rest, TYPES, numbers).body.decode()
    shown = [line.strip().rstrip(",") for line in text.splitlines()[2:-2]]
    assert shown == ["0.2", "9e+06", "3e-05", "1.0", "16777216.0", "0.123456702", "NaN", "Infinity", "-Infinity"]
    assert math.isnan(json.loads(text)["outputs"][6])


def test_binary_values(rest: Rest) -> None:
    body = {"signature_name": "string", "inputs": [{"b64": "AP8="}, {"b64": " AP8 "}, "plain"]}
    assert ask(rest, TYPES, body).body.count(b'"\\u0000\xff"') == 2


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (b"caf\xe9", b"caf\xe9"),
        (b"\xd6\xd0\xce\xc4", b"\xd6\xd0\xce\xc4"),
        (b"a\xff\\u00e9", b"a\xff\xc3\xa9"),
        (b"\\udc00", b"\xed\xb0\x80"),
        (b"\\ud83d\\ude00", b"\xf0\x9f\x98\x80"),
    ],
)
def test_strings_are_bytes_of_any_encoding(rest: Rest, value: bytes, content: bytes) -> None:
    for form in (b'{"inputs": ["%s"]', b'{"instances": ["%s"]', b'{"instances": [{"x": "%s"}]'):
        answer = ask(rest, TYPES, form % value + b', "signature_name": "string"}')
        assert answer.status == 200
        assert b'"' + content + b'"' in answer.body


@pytest.mark.parametrize(
    ("dtype", "text", "values"),
    [
        ("float32", "[1, 2.5, -0.0, 1e39, -1e39, 1e-50, 16777217]", [1, 2.5, -0.0, math.inf, -math.inf, 0.0, 16777216]),
        ("float32", "[Inf, -Inf, Infinity, -Infinity]", [math.inf, -math.inf, math.inf, -math.inf]),
        ("float64", "[1, 0.1, 18446744073709551616, 123e307]", [1, 0.1, 2.0**64, math.inf]),
        ("float64", "[0.1, 1e-310]", [0.1, 1e-310]),
        ("int8", "[300, -129, 127]", [44, 127, 127]),
        ("uint8", "[-1, 256, 255]", [255, 0, 255]),
        ("int16", "[65536, 32768]", [0, -32768]),
        ("int64", "[9223372036854775807, -9223372036854775808, -0]", [2**63 - 1, -(2**63), 0]),
        ("uint64", "[18446744073709551615, 0]", [2**64 - 1, 0]),
        ("bool", "[true, false]", [True, False]),
    ],
)
def test_numbers_become_elements_as_there(rest: Rest, dtype: str, text: str, values: list[Any]) -> None:
    body = f'{{"signature_name": "{dtype}", "inputs": {text}}}'.encode()
    assert json.loads(ask(rest, TYPES, body).body) == {"outputs": values}
    rows = body.replace(b"inputs", b"instances")
    assert json.loads(ask(rest, TYPES, rows).body) == {"predictions": values}


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        *(("int32", text) for text in ("1.0", "1e0", "2147483648", "-2147483649", "NaN", "true", "null", '"1"')),
        *(("int64", text) for text in ("9223372036854775808", "-9223372036854775809", "0.5")),
        *(("uint32", text) for text in ("-1", "4294967296")),
        *(("uint64", text) for text in ("-1", "18446744073709551616")),
        *(("int8", text) for text in ("2147483648", "1.0")),
        *(("bool", text) for text in ("0", "1", "1.0", '"true"', "null")),
        *(("float32", text) for text in ("true", "null", '"1"', '"NaN"', '{"b64": "AA=="}')),
        *(("string", text) for text in ("1", "1.5", "NaN", "true", "null")),
    ],
)
def test_values_of_another_type_are_refused_with_their_place(rest: Rest, dtype: str, text: str) -> None:
    name = {"float32": "float"}.get(dtype, dtype)
    good = {"bool": "true", "string": '"a"'}.get(dtype, "1")
    kind = {"t": "True", "n": "Null", '"': "String", "{": "Object"}.get(text[0], "Number")
    expected = f"JSON Value: <hidden> Type: {kind} is not of expected type: {name}"
    for form in (f"[{text}]", f"[{good}, {text}]", f"[[{good}], [{text}]]", text):
        body = f'{{"signature_name": "{dtype}", "inputs": {form}}}'
        assert error(rest, TYPES, body.encode()) == (400, expected)
    many = ", ".join([good] * 20_000)
    body = f'{{"signature_name": "{dtype}", "instances": [{many}, {text}]}}'
    prefix = "Failed to process element: 20000 of 'instances' list. Error: INVALID_ARGUMENT: "
    assert error(rest, TYPES, body.encode()) == (400, prefix + expected)


def test_large_arrays_of_any_rank_are_whole_and_in_order(rest: Rest) -> None:
    """Numbers are read and written in pieces. The test uses different positions for the borders of pieces."""
    for shape in ((30_000,), (3, 10_000), (10_000, 3), (10, 20, 30, 5), (1, 1, 30_000)):
        numbers = np.arange(math.prod(shape)).reshape(shape)
        for dtype, array in (("float32", numbers / 4), ("int32", numbers - 1000)):
            values = array.tolist()
            for separators, indent in (((",", ":"), None), ((", ", ": "), 1)):
                body = json.dumps({"inputs": values, "signature_name": dtype}, separators=separators, indent=indent)
                assert answered(rest, TYPES, body.encode()) == {"outputs": values}
                assert answered(rest, TYPES, body.replace("inputs", "instances").encode()) == {"predictions": values}


def test_doubles_are_exact_whatever_else_the_document_says(rest: Rest) -> None:
    """Single precision is used if the document seems to name a signature without doubles."""
    for misleading in ('"x": {"signature_name": "float32"}', '"x": ["\\"signature_name\\": \\"float32\\""]', '"x": 1'):
        body = f'{{{misleading}, "signature_name": "float64", "y": "{"x" * 9000}", "inputs": [0.1, 1e300]}}'
        assert answered(rest, TYPES, body.encode()) == {"outputs": [0.1, 1e300]}


def test_repeated_names(rest: Rest) -> None:
    assert answered(rest, PREDICT, b'{"instances": [{"x": 1, "x": 5}]}') == {"predictions": [2.5]}
    assert answered(rest, PREDICT, b'{"inputs": {"x": [1], "x": [5]}}') == {"outputs": [2.5]}
    assert answered(rest, PREDICT, b'{"inputs": [1], "inputs": [5]}') == {"outputs": [2.5]}
    features = b'{"examples": [{"x": "no number", "x": 2.0}]}'
    assert answered(rest, "/v1/models/examples:regress", features) == {"results": [3.0]}


def test_an_error_in_a_part_that_is_not_used_is_an_error(rest: Rest) -> None:
    body = b'{"instances": [1], "other": [1, 2,]}'
    assert error(rest, PREDICT, body) == (400, "JSON Parse error: Invalid value. at offset: 34")
    deep = b'{"instances": [1], "other": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"
    assert answered(rest, PREDICT, deep) == {"predictions": [2.5]}
    malformed = b'{"signature_name": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert "key must be a string value" in error(rest, PREDICT, malformed)[1]
    assert error(rest, PREDICT, b'{"inputs": ' + b"[" * 50_000 + b"1" + b"]" * 50_000 + b"}") == (
        400,
        "tensor parsing error: x",
    )


def test_what_follows_the_document_is_ignored_and_a_mark_in_front_too(rest: Rest) -> None:
    assert answered(rest, PREDICT, b'\xef\xbb\xbf \n{"instances": [1]} and more') == {"predictions": [2.5]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"  \n", "JSON Parse error: The document is empty. at offset: 3"),
        (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "JSON Parse error: Missing a colon after a name of object member. at offset: 5"),
        ('{"é": ]}'.encode(), "JSON Parse error: Invalid value. at offset: 7"),
        (b'{"a": [1 2]}', "JSON Parse error: Missing a comma or ']' after an array element. at offset: 9"),
        (b'{"a": "b', "JSON Parse error: Missing a closing quotation mark in string. at offset: 8"),
        (b'{"a": "\\q"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (b'{"a": ' + b"[" * 100_000, "JSON Parse error: Invalid value. at offset: 100006"),
        (
            b'{"inputs": "\\ud800", "signature_name": "words"}',
            "JSON Parse error: The surrogate pair in string is invalid. at offset: 12",
        ),
        (b"[1, 2]", "JSON Value: <hidden> Is not object"),
        (
            b'{"signature_name": 5, "instances": [1]}',
            "JSON Value: <hidden> not formatted correctly. 'signature_name' key must be a string value.",
        ),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (
            b'{"inputs": 1, "instances": [1]}',
            "JSON Value: <hidden> Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        (b'{"instances": 1}', "JSON Value: <hidden> Expecting 'instances' to be an list/array"),
        (b'{"instances": []}', "JSON Value: <hidden> No values in 'instances' array"),
        (
            b'{"signature_name": "none", "instances": [1]}',
            'Serving signature name: "none" not found in signature def',
        ),
        (
            b'{"signature_name": "two_inputs", "instances": [1]}',
            (
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per"
                " tensorinfo_map"
            ),
        ),
        (
            b'{"signature_name": "two_inputs", "inputs": [1]}',
            (
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per"
                " tensorinfo_map"
            ),
        ),
        (b'{"signature_name": "two_inputs", "inputs": {"a": [[1, 2]]}}', "Missing named input: b in 'inputs' object."),
        (b'{"instances": [1, {"x": 2}]}', "Expecting value/list but got object at item 1 of input list"),
        (b'{"instances": [{"x": 2}, 1]}', "Expecting object but got list at item 1 of input list"),
        (
            b'{"instances": [{"y": 2}]}',
            (
                "Failed to process element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does"
                " not have named input: y"
            ),
        ),
        (
            b'{"signature_name": "two_inputs", "instances": [{"a": [1, 2]}]}',
            "Failed to process element: 0 of 'instances' list. JSON object: <hidden> keys must be equal to: a,b",
        ),
        (
            b'{"instances": [1, "canary-771177"]}',
            (
                "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: <hidden> Type:"
                " String is not of expected type: float"
            ),
        ),
        (
            b'{"instances": [{"x": 1}, {"x": true}]}',
            (
                "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: <hidden>"
                " Type: True is not of expected type: float"
            ),
        ),
        (
            b'{"instances": [[1, 2], [1]]}',
            (
                "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2"
                " but got: 1"
            ),
        ),
        (
            b'{"instances": [[[1, 2]], [[1], [2]]]}',
            (
                "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [1,2] but"
                " got: [2,1]"
            ),
        ),
        (b'{"inputs": [[1, 2], [1]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        (b'{"inputs": [1, [1]]}', "Encountered list at unexpected level: 1 expected < 1"),
        (
            b'{"inputs": [[1], 1]}',
            "JSON Value: <hidden> found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (b'{"inputs": [null]}', "JSON Value: <hidden> Type: Null is not of expected type: float"),
        (b'{"inputs": [{"b64": "AA=="}]}', "JSON Value: <hidden> Type: Object is not of expected type: float"),
        (
            b'{"signature_name": "words", "inputs": [{"other": "AA=="}]}',
            "JSON Value: <hidden> not formatted correctly for base64 data",
        ),
        (b'{"signature_name": "words", "inputs": [{"b64": "!"}]}', "Unable to base64 decode"),
        (
            b'{"signature_name": "pick", "inputs": [1.5]}',
            "JSON Value: <hidden> Type: Number is not of expected type: int32",
        ),
        (
            b'{"signature_name": "pick", "inputs": [4294967296]}',
            "JSON Value: <hidden> Type: Number is not of expected type: int32",
        ),
        (
            b'{"inputs": [1' + b"0" * 400 + b"]}",
            "JSON Parse error: Number too big to be stored in double. at offset: 12",
        ),
    ],
)
def test_a_body_that_is_refused(rest: Rest, body: bytes, message: str) -> None:
    assert error(rest, PREDICT, body) == (400, message)


def test_types_that_have_no_json(rest: Rest) -> None:
    for dtype, name in (
        ("float16", "half"),
        ("bfloat16", "bfloat16"),
        ("complex64", "complex64"),
        ("uint16", "uint16"),
    ):
        status, message = error(rest, TYPES, {"signature_name": dtype, "inputs": [1]})
        assert (status, message) == (501, f"Conversion of JSON Value: <hidden> to type: {name}")
        status, message = error(rest, TYPES, {"signature_name": dtype, "inputs": []})
        assert (status, message) == (400, f"Failed to write JSON value for tensor type: {name}")


def test_rows_of_outputs_that_have_none() -> None:
    scalar = Output(FLOAT, (), [1.0])
    with pytest.raises(JsonFormError, match="Tensor name: y has no shape information ") as caught:
        render_rows({"y": scalar})
    assert caught.value.code == "request.json-form"
    one, two = (Output(FLOAT, (size,), [0.5] * size) for size in (1, 2))
    with pytest.raises(JsonFormError, match="Tensor name: b has inconsistent batch size: 2 expecting: 1"):
        render_rows({"a": one, "b": two})


def test_answers_in_each_layout() -> None:
    def output(*shape: int) -> Output:
        return Output(FLOAT, shape, [float(number) for number in range(math.prod(shape))])

    assert render_rows({"y": output(0)}) == b'{\n    "predictions": []\n}'
    assert render_rows({"y": output(2, 0)}) == b'{\n    "predictions": [[], []\n    ]\n}'
    assert render_rows({"y": output(2, 2, 1)}) == b'{\n    "predictions": [[[0.0], [1.0]], [[2.0], [3.0]]\n    ]\n}'
    assert render_columns({"y": output()}) == b'{\n    "outputs": 0.0\n}'
    assert render_columns({"y": output(0)}) == b'{\n    "outputs": []\n}'
    assert render_columns({"y": output(1, 0)}) == b'{\n    "outputs": [\n        []\n    ]\n}'
    assert render_columns({"y": output(2, 1)}) == (
        b'{\n    "outputs": [\n        [\n            0.0\n        ],\n        [\n            1.0\n        ]\n    ]\n}'
    )
    two = {"a": output(2), "b": output(2, 0)}
    assert json.loads(render_columns(two)) == {"outputs": {"a": [0.0, 1.0], "b": [[], []]}}
    assert json.loads(render_rows(two)) == {"predictions": [{"a": 0.0, "b": []}, {"a": 1.0, "b": []}]}
    many = {
        "a": output(9000),
        "b": output(9000, 3),
        "c": Output(DataType.Value("DT_STRING"), (9000,), [b"]\0, ["] * 9000),
    }
    rows = json.loads(render_rows(many))["predictions"]
    assert rows[8999] == {"a": 8999.0, "b": [26997.0, 26998.0, 26999.0], "c": "]\0, ["}
    assert len(rows) == 9000
    for render in (render_rows, render_columns):
        with pytest.raises(JsonFormError, match="Cannot convert empty tensor map to JSON"):
            render({})


def test_bytes_are_written_as_base64_where_the_name_says_so() -> None:
    output = Output(DataType.Value("DT_STRING"), (1,), [b"\x00\xff"])
    assert json.loads(render_rows({"image_bytes": output})) == {"predictions": [{"b64": "AP8="}]}
    assert json.loads(render_columns({"image_bytes": output})) == {"outputs": [{"b64": "AP8="}]}


def test_no_value_is_in_any_error(rest: Rest) -> None:
    bodies: tuple[Any, ...] = (
        {"instances": [CANARY]},
        {"inputs": {"x": CANARY}},
        {"signature_name": "number", "inputs": CANARY},
        {"signature_name": "words", "inputs": [{"b64": CANARY}]},
        CANARY,
        [CANARY],
        f'{{"inputs": "{CANARY}'.encode(),
        {"signature_name": {"a": CANARY}, "inputs": 1},
    )
    for body in bodies:
        status, message = error(rest, PREDICT, body)
        assert status >= 400
        assert CANARY not in message


# --- classify and regress ---------------------------------------------------------------------------------------------


def test_classify_and_regress(rest: Rest) -> None:
    regress = ask(rest, "/v1/models/examples:regress", {"examples": [{"x": 2.0}, {"x": [4.0]}]})
    assert regress == Answer(200, b'{\n    "results": [3.0, 4.0]\n}')
    body = {"signature_name": "both", "context": {"w": 1.0}, "examples": [{"x": 2.0}]}
    classify = ask(rest, "/v1/models/examples:classify", body)
    assert classify == Answer(200, b'{\n    "results": [[["low", 4.0], ["high", -4.0]]\n    ]\n}')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "JSON Value: <hidden> When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "JSON Value: <hidden> Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "JSON Value: <hidden> 'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"context": "x", "examples": [{}]}, "Example must be JSON object but got JSON String"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {"a": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": [1.5, 1]}]}, "Unexpected element type in feature: x expecting type: float"),
        ({"examples": [{"x": [1, "a"]}]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"examples": [{"x": ["a", True]}]}, "Unexpected element type in feature: x expecting type: bytes"),
        ({"examples": [{"x": 2**63}]}, "Feature: x has uint64_t element. Only int64_t is supported."),
        ({"examples": [{"x": {"b64": "!"}}]}, "Unable to base64 decode"),
        ({"signature_name": "nothing", "examples": [{"x": 1.0}]}, "No signature was found with the name: nothing"),
    ],
)
def test_examples_that_are_refused(rest: Rest, body: Any, message: str) -> None:
    assert error(rest, "/v1/models/examples:regress", body) == (400, message)


# --- status, metadata, paths ------------------------------------------------------------------------------------------


def test_the_status(rest: Rest) -> None:
    answer = ask(rest, "/v1/models/m")
    assert answer.status == 200
    assert answer.body.decode() == (
        '{\n "model_version_status": [\n  {\n   "version": "3",\n   "state": "AVAILABLE",\n   "status": {\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )
    assert answered(rest, "/v1/models/m/versions/3") == json.loads(answer.body)
    assert answered(rest, "/v1/models/m/labels/anything") == json.loads(answer.body)
    assert error(rest, "/v1/models/m/versions/4") == (404, "Could not find version 4 of model m")
    assert error(rest, "/v1/models/x") == (404, "Could not find any versions of model x")


def test_the_metadata(rest: Rest) -> None:
    document = answered(rest, "/v1/models/m/metadata")
    assert document["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    signatures = document["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signatures["serving_default"]["inputs"]["x"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert answered(rest, "/v1/models/m/versions/3/metadata") == document
    assert error(rest, "/v1/models/x/metadata") == (404, "Servable not found for request: Latest(x)")


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/v1/models", "Missing model name in request."),
        ("GET", "/v1/models/m:predict", "Malformed request: GET /v1/models/m:predict"),
        ("POST", "/v1/models/m", "Malformed request: POST /v1/models/m"),
        ("POST", "/v1/models/m:PREDICT", "Malformed request: POST /v1/models/m:PREDICT"),
        ("POST", "/v1/models/m:predict?x=1", "Malformed request: POST /v1/models/m:predict?x=1"),
        ("PUT", "/v1/models/m:predict", "Malformed request: PUT /v1/models/m:predict"),
        ("DELETE", "/v1/models/m", "Malformed request: DELETE /v1/models/m"),
        ("GET", "/v1/models/m/versions/x", "Malformed request: GET /v1/models/m/versions/x"),
        (
            "GET",
            "/v1/models/m/versions/9223372036854775808",
            "Failed to convert version: 9223372036854775808 to numeric.",
        ),
        ("GET", "/v1/models/m/versions/" + "9" * 30, f"Failed to convert version: {'9' * 30} to numeric."),
    ],
)
def test_paths_that_are_refused(rest: Rest, method: str, path: str, message: str) -> None:
    assert rest.knows(path)
    assert error(rest, path, b"{}", method) == (400, message)


def test_models_and_labels_that_are_not_there(rest: Rest) -> None:
    body = {"instances": [1]}
    assert error(rest, "/v1/models/x:predict", body) == (404, "Servable not found for request: Latest(x)")
    assert error(rest, "/v1/models/m/versions/9:predict", body) == (
        404,
        "Servable not found for request: Specific(m, 9)",
    )
    assert error(rest, "/v1/models/m/labels/x:predict", body) == (400, "Unrecognized servable version label: x")
    assert not rest.knows("/v2/models")


def test_every_status_has_an_http_status() -> None:
    assert set(HTTP_STATUS) == set(Status)


def test_what_nobody_foresaw_is_internal(monkeypatch: pytest.MonkeyPatch, rest: Rest) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise ZeroDivisionError(CANARY)

    monkeypatch.setattr("sealserve.serving.http.rest.run_inputs", fail)
    assert error(rest, PREDICT, {"instances": [1]}) == (500, "internal")


def test_codes_of_errors_that_become_an_http_status(rest: Rest) -> None:
    with raises(RequestCode.JSON_SYNTAX) as syntax:
        read(b"{")
    assert syntax.value.code == "request.json-syntax"
    info = TensorInfo(dtype=DataType.Value("DT_HALF"))
    with pytest.raises(JsonTypeError) as kind:
        read_inputs(read(b'{"inputs": [1]}'), {"x": info})
    assert (kind.value.code, kind.value.status) == ("request.json-type", Status.UNIMPLEMENTED)
    assert (RequestCode.REST_PATH.value, error(rest, "/v1/x")[0]) == ("request.rest-path", 400)
