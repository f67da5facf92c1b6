import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises
from tests.harness.serialised import predict
from tests.unit.serving.conftest import load, server_options

from sealserve import serving_interface
from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.runtime.libtensorflow import library
from sealserve.serving.runtime.protos import PredictRequest, PredictResponse, TensorProto
from sealserve.serving.runtime.signature import InputTensor
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.servables import Servables

pytestmark = pytest.mark.tensorflow

CANARY = 771177


def tensor(value: Any, dtype: str = "float32") -> TensorProto:
    import tensorflow as tf  # noqa: PLC0415  # the models' fixture has paid for it

    return tf.make_tensor_proto(value, dtype=dtype)


def request(signature: str = "", *, outputs: tuple[str, ...] = (), model: str = "m", **inputs: TensorProto) -> bytes:
    message = PredictRequest(output_filter=outputs)
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    for alias, proto in inputs.items():
        message.inputs[alias].CopyFrom(proto)
    return bytes(message.SerializeToString())


def answer(
    servables: Servables, content: bytes, *, limit: int = 2**20, deadline: float | None = None
) -> PredictResponse:
    return PredictResponse.FromString(predict(servables, content, max_tensor_bytes=limit, deadline=deadline))


def refused(servables: Servables, content: bytes, *, limit: int = 2**20) -> RequestError:
    with pytest.raises(RequestError) as caught:
        predict(servables, content, max_tensor_bytes=limit, deadline=None)
    return caught.value


def test_half_plus_two_answers_in_float_val_and_says_who_answered(servables: Servables) -> None:
    response = answer(servables, request(x=tensor([1.0, 2.0, 5.0])))
    assert list(response.outputs) == ["y"]
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert not response.outputs["y"].tensor_content
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [3]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 3, "serving_default")


def test_an_empty_batch_is_answered_with_an_empty_one(servables: Servables) -> None:
    response = answer(servables, request(x=tensor(np.zeros([0]))))
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [0]
    assert not response.outputs["y"].float_val


@pytest.mark.parametrize("count", [31, 32, 4095, 4096, 100_000])
def test_an_answer_of_any_length_is_encoded(servables: Servables, count: int) -> None:
    given = np.arange(count, dtype=np.float32)
    returned = answer(servables, request(x=tensor(given))).outputs["y"].float_val
    np.testing.assert_array_equal(np.array(returned, np.float32), given / 2 + 2)


def test_every_output_comes_unless_the_filter_chooses(servables: Servables) -> None:
    inputs = {"a": tensor([[1.0, 2.0]]), "b": tensor(3.0)}
    both = answer(servables, request("two_inputs", **inputs)).outputs
    assert {alias: list(proto.float_val) for alias, proto in both.items()} == {"sum": [4, 5], "product": [3, 6]}
    one = answer(servables, request("two_inputs", outputs=("product",), **inputs)).outputs
    assert list(one) == ["product"]


def test_strings_and_a_lookup_table(servables: Servables) -> None:
    long = b"\x00\xff" * 100
    outputs = answer(servables, request("words", words=tensor([b"a", long, b""], "string"))).outputs
    assert list(outputs["twice"].string_val) == [b"aa", long * 2, b""]
    assert list(outputs["known"].int_val) == [1, -1, -1]


@pytest.mark.parametrize(
    ("dtype", "field", "values"),
    [
        ("float16", "half_val", [0.5, -2.0]),
        ("bfloat16", "half_val", [0.5, -2.0]),
        ("float32", "float_val", [0.5, -2.0, float("inf")]),
        ("float64", "double_val", [0.1, -2.0]),
        ("complex64", "scomplex_val", [1 + 2j, -3j]),
        ("complex128", "dcomplex_val", [1 + 2j, -3j]),
        ("bool", "bool_val", [True, False, True]),
        ("int8", "int_val", [-128, 127]),
        ("int16", "int_val", [-(2**15), 2**15 - 1]),
        ("int32", "int_val", [-(2**31), 2**31 - 1]),
        ("int64", "int64_val", [-(2**63), 2**63 - 1]),
        ("uint8", "int_val", [0, 255]),
        ("uint16", "int_val", [0, 2**16 - 1]),
        ("uint32", "uint32_val", [0, 2**32 - 1]),
        ("uint64", "uint64_val", [0, 2**64 - 1]),
        ("string", "string_val", [b"", b"x" * 40]),
    ],
)
@pytest.mark.parametrize("shape", ["vector", "matrix", "scalar", "empty"])
def test_each_type_returns_as_it_went_in(
    types: Servables, dtype: str, field: str, values: list[Any], shape: str
) -> None:
    import tensorflow as tf  # noqa: PLC0415  # the models' fixture has paid for it

    numpy_type = tf.as_dtype(dtype).as_numpy_dtype
    given = {
        "vector": np.array(values, numpy_type),
        "matrix": np.array([values, values], numpy_type),
        "scalar": np.array(values[-1], numpy_type),
        "empty": np.zeros([0, 3], numpy_type),
    }[shape]
    output = answer(types, request(dtype, model="types", x=tensor(given, dtype))).outputs["y"]
    filled = {descriptor.name for descriptor, _ in output.ListFields()} - {"dtype", "tensor_shape"}
    assert filled <= {field}
    returned = tf.make_ndarray(output)
    assert returned.shape == given.shape
    np.testing.assert_array_equal(returned, given)


@pytest.mark.parametrize("dtype", ["float32", "int16", "bool", "string", "complex64"])
def test_answers_carry_bytes_where_that_is_asked_for(types: Servables, dtype: str) -> None:
    import tensorflow as tf  # noqa: PLC0415  # the models' fixture has paid for it

    given = np.array([[b"", b"x" * 300]], object) if dtype == "string" else np.array([[1, 0]], dtype)
    content = request(dtype, model="types", x=tensor(given, dtype))
    response = PredictResponse.FromString(
        predict(types, content, max_tensor_bytes=2**20, deadline=None, as_content=True)
    )
    output = response.outputs["y"]
    assert {descriptor.name for descriptor, _ in output.ListFields()} == {"dtype", "tensor_shape", "tensor_content"}
    np.testing.assert_array_equal(tf.make_ndarray(output) if dtype != "string" else read_strings(output), given)


def read_strings(proto: TensorProto) -> Any:
    library_ = library()
    return np.array([Tensor.from_proto(library_, proto.SerializeToString()).strings()], object)


def test_a_default_fills_in_for_an_input_that_is_left_out(types: Servables) -> None:
    left_out = answer(types, request("with_default", model="types", a=tensor([1.0])))
    assert list(left_out.outputs["sum"].float_val) == [11]
    given = answer(types, request("with_default", model="types", a=tensor([1.0]), b=tensor(2.0)))
    assert list(given.outputs["sum"].float_val) == [3]
    wrong = refused(types, request("with_default", model="types", b=tensor(2.0)))
    assert wrong.code == "request.input-names"
    assert wrong.message == (
        "Signature input alias: a(feed name: a:0) not found in request and no default value provided."
        " Inputs expected to be in the request {b}, or default input alias set: b"
    )
    extra = refused(types, request("with_default", model="types", a=tensor([1.0]), z=tensor(2.0)))
    assert extra.message == "Inputs contains invalid name. Used request inputs: a, request input: a,z"


def test_bytes_that_are_no_request(servables: Servables) -> None:
    wrong = refused(servables, b"\xff\xff\xff")
    assert isinstance(wrong, RequestError)
    assert wrong.code == RequestCode.MALFORMED
    assert (wrong.code, wrong.status) == ("request.malformed", Status.INVALID_ARGUMENT)
    assert wrong.message == "The request is not a valid PredictRequest message."


def test_a_request_that_names_no_model(servables: Servables) -> None:
    wrong = refused(servables, b"")
    assert isinstance(wrong, RequestError)
    assert wrong.code == RequestCode.MODEL_SPEC
    assert (wrong.code, wrong.status, wrong.message) == (
        "request.model-spec",
        Status.INVALID_ARGUMENT,
        "Missing ModelSpec",
    )
    assert refused(servables, request(model="")).message == "ModelSpec has no name specified."


def test_a_label_that_no_version_has(servables: Servables) -> None:
    message = PredictRequest()
    message.model_spec.name = "m"
    message.model_spec.version_label = "stable"
    wrong = refused(servables, message.SerializeToString())
    assert wrong.message == "Unrecognized servable version label: stable"


def test_a_model_or_a_version_that_is_not_there(servables: Servables) -> None:
    wrong = refused(servables, request(model="other"))
    assert isinstance(wrong, RequestError)
    assert wrong.code == RequestCode.SERVABLE_NOT_FOUND
    assert (wrong.code, wrong.status) == ("request.servable-not-found", Status.NOT_FOUND)
    assert wrong.message == "Servable not found for request: Latest(other)"
    message = PredictRequest()
    message.model_spec.name = "m"
    message.model_spec.version.value = 7
    assert refused(servables, message.SerializeToString()).message == "Servable not found for request: Specific(m, 7)"


def test_a_version_that_is_there(servables: Servables) -> None:
    message = PredictRequest()
    message.model_spec.name = "m"
    message.model_spec.version.value = 3
    message.inputs["x"].CopyFrom(tensor([2.0]))
    assert list(answer(servables, message.SerializeToString()).outputs["y"].float_val) == [3]


def test_a_signature_that_is_not_there(servables: Servables, types: Servables) -> None:
    wrong = refused(servables, request("nonsense"))
    assert (wrong.code, wrong.status) == ("request.signature-not-found", Status.FAILED_PRECONDITION)
    assert wrong.message == 'Serving signature key "nonsense" not found.'
    for table, model, name in ((types, "types", "sparse"), (servables, "m", "__saved_model_init_op")):
        wrong = refused(table, request(name, model=model))
        assert wrong.message.startswith(f'Serving signature key "{name}" cannot be called: its ')


def test_inputs_that_are_missing_or_too_many(servables: Servables) -> None:
    wrong = refused(servables, request())
    assert (wrong.code, wrong.status) == ("request.input-names", Status.INVALID_ARGUMENT)
    assert wrong.message == (
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}."
    )
    wrong = refused(servables, request(x=tensor([1.0]), z=tensor([1.0]), a=tensor([1.0])))
    assert wrong.message == (
        "input size does not match signature: 3!=1 len({a,x,z}) != len({x}). Sent extra: {a,z}."
        " Missing but required: {}."
    )
    wrong = refused(servables, request(z=tensor([1.0])))
    assert wrong.message == (
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value provided."
        " Inputs expected to be in the request {z}, or default input alias set: "
    )


def test_a_method_name_counts_only_where_the_flag_asks(types: Servables, models: Path) -> None:
    flags = ("--saved_model_tags=other,serve", "--enable_signature_method_name_check")
    strict = load(server_options(models / "types", *flags, name="types"))
    table = Servables()
    table.publish(strict)
    good = request("bool", model="types", x=tensor([True], "bool"))
    assert answer(table, good).outputs == answer(types, good).outputs
    strict.definitions["bool"].method_name = "custom"
    wrong = refused(table, good)
    assert (wrong.code, wrong.status) == ("request.signature-method", Status.INTERNAL)
    assert wrong.message == (
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict,"
        " tensorflow/serving/classify, tensorflow/serving/regress}. Was: custom"
    )
    strict.session.close()


def test_an_input_of_another_type(servables: Servables) -> None:
    wrong = refused(servables, request(x=tensor(["a"], "string")))
    assert (wrong.code, wrong.status) == ("request.input-type", Status.INVALID_ARGUMENT)
    assert wrong.message == "Expects arg[0] to be float but string is provided (input 'x')"


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat each signature as if its inputs reached an operation that was not tested with other shapes."""
    accepts = InputTensor.accepts
    monkeypatch.setattr(InputTensor, "accepts", lambda self, shape: accepts(replace(self, tolerant=False), shape))


@pytest.mark.usefixtures("strict")
def test_an_input_of_another_shape(servables: Servables) -> None:
    wrong = refused(servables, request("pick", index=tensor([[1, 2, 0]], "int32")))
    assert (wrong.code, wrong.status) == ("request.input-shape", Status.INVALID_ARGUMENT)
    assert wrong.message == "input 'index' has the shape [1,3]; the signature accepts [?]"
    wrong = refused(servables, request("words", words=tensor("a", "string")))
    assert wrong.message == "input 'words' has the shape []; the signature accepts [?]"


def test_an_input_that_is_no_tensor(servables: Servables) -> None:
    negative = tensor([1.0])
    negative.tensor_shape.dim[0].size = -2
    short = TensorProto(dtype=1, tensor_content=b"123")
    short.tensor_shape.dim.add(size=2)
    rankless = tensor([1.0])
    rankless.tensor_shape.unknown_rank = True
    for proto in (negative, short, rankless, TensorProto(), TensorProto(dtype=20), TensorProto(dtype=999)):
        wrong = refused(servables, request(x=proto))
        assert (wrong.code, wrong.message) == ("request.input-tensor", "tensor parsing error: x")


def shaped(proto: TensorProto, *sizes: int) -> TensorProto:
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("signature", "alias", "huge"),
    [
        ("serving_default", "x", shaped(TensorProto(dtype=1, float_val=[1.0]), 2**40)),
        ("words", "words", shaped(TensorProto(dtype=7, string_val=[b"a" * 20_000]), 50_000)),
        ("words", "words", shaped(TensorProto(dtype=7, string_val=[b"", b"a" * 900]), 4)),  # repeated twice
        ("number", "text", shaped(TensorProto(dtype=7), 2**31, 2**31)),
    ],
)
def test_a_few_bytes_that_stand_for_a_huge_tensor_are_not_unpacked(
    servables: Servables, monkeypatch: pytest.MonkeyPatch, signature: str, alias: str, huge: TensorProto
) -> None:
    monkeypatch.setattr(Tensor, "from_proto", None)
    wrong = refused(servables, request(signature, **{alias: huge}), limit=1500)
    assert (wrong.code, wrong.message) == (
        "request.input-tensor",
        f"input {alias!r} exceeds the limit of 1500 bytes (--max_message_bytes)",
    )


def test_strings_that_are_repeated_within_the_limit_are(servables: Servables) -> None:
    words = shaped(TensorProto(dtype=7, string_val=[b"b", b"a" * 100]), 3)
    response = answer(servables, request("words", words=words), limit=3 * 24 + 1 + 2 * 100)
    assert list(response.outputs["twice"].string_val) == [b"bb", b"a" * 200, b"a" * 200]


@pytest.mark.parametrize(
    "sizes", [(0, 2**20 + 1), (2**62, 2**62, 0), (2**63 - 1, 0), (2**11, 0, 2**10), (0, *[2**62] * 200)]
)
def test_an_empty_tensor_whose_other_sizes_are_huge_never_reaches_tensorflow(
    servables: Servables, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    """Some kernels end the process if a product of sizes overflows, although a size is 0. Others use much memory."""
    monkeypatch.setattr(Tensor, "from_proto", None)
    error = refused(servables, request(x=shaped(TensorProto(dtype=1), *sizes)))
    assert (error.code, error.status) == ("request.input-shape", Status.INVALID_ARGUMENT)
    assert "is empty and has the shape [" in error.message
    assert len(error.message) < 400


def test_an_empty_tensor_of_a_usual_shape_is_answered(servables: Servables) -> None:
    response = answer(servables, request(x=shaped(TensorProto(dtype=1), 0, 1024, 1024)))
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [0, 1024, 1024]


@pytest.mark.usefixtures("strict")
def test_a_shape_is_judged_before_tensorflow_sees_the_tensor(
    servables: Servables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "from_proto", None)
    wide = shaped(TensorProto(dtype=3, int_val=[1]), 1, 3)
    assert refused(servables, request("pick", index=wide)).code == "request.input-shape"
    deep = shaped(
        TensorProto(dtype=7, string_val=[b"1"]), *[2**62] * 255
    )  # any rank is accepted, up to TensorFlow's limit of 254
    wrong = refused(servables, request("number", text=deep))
    assert (wrong.code, wrong.message) == ("request.input-tensor", "tensor parsing error: text")


def test_outputs_that_are_not_there_or_asked_for_twice(servables: Servables) -> None:
    wrong = refused(servables, request(outputs=("nonsense",), x=tensor([1.0])))
    assert (wrong.code, wrong.status) == ("request.output-filter", Status.INVALID_ARGUMENT)
    assert wrong.message == (
        "output tensor alias not found in signature: nonsense Outputs expected to be in the set {y}."
    )
    wrong = refused(servables, request(outputs=("y", "y"), x=tensor([1.0])))
    assert wrong.message == "duplicate output tensor alias: y"


def test_what_tensorflow_refuses_keeps_its_status_and_loses_the_value(
    servables: Servables, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = refused(servables, request("pick", index=tensor([CANARY], "int32")))
    assert (wrong.code, wrong.status) == ("request.execution", Status.INVALID_ARGUMENT)
    assert wrong.message.startswith("indices<hidden> is not in [0, 3)\n\t [[")
    wrong = refused(servables, request("number", text=tensor(f"canary {CANARY}", "string")))
    assert wrong.message.startswith("StringToNumberOp could not correctly convert string: <hidden>\n\t [[")
    assert str(CANARY) not in wrong.message + "".join(capfd.readouterr())
    assert str(CANARY) not in str(wrong.__cause__)


def test_a_deadline_that_passed_is_not_run(servables: Servables) -> None:
    with raises(RequestCode.DEADLINE_EXCEEDED, match="deadline passed") as caught:
        predict(servables, request(x=tensor([1.0])), max_tensor_bytes=1000, deadline=time.monotonic() - 1)
    assert (caught.value.code, caught.value.status) == ("request.deadline-exceeded", Status.DEADLINE_EXCEEDED)


def test_a_deadline_ahead_is_no_hindrance(servables: Servables) -> None:
    response = answer(servables, request(x=tensor([1.0])), deadline=time.monotonic() + 100)
    assert list(response.outputs["y"].float_val) == [2.5]


def test_the_default_signature_is_tensorflow_servings() -> None:
    assert serving_interface.DEFAULT_SIGNATURE == "serving_default"
