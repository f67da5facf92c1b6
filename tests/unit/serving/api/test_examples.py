from typing import Any

import pytest
from tests.harness.serialised import answer_classify, answer_multi_inference, answer_regress

from sealserve.serving.api.examples import (
    CLASSIFY_METHOD,
    REGRESS_METHOD,
    Call,
)
from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.runtime.protos import (
    ClassificationRequest,
    ClassificationResponse,
    MultiInferenceRequest,
    MultiInferenceResponse,
    RegressionRequest,
    RegressionResponse,
)
from sealserve.serving.servables import Servable, Servables

pytestmark = pytest.mark.tensorflow


def fill(request: Any, *values: float, signature: str = "", model: str = "examples") -> bytes:
    if model:
        request.model_spec.name = model
        request.model_spec.signature_name = signature
    for value in values:
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(value)
    return bytes(request.SerializeToString())


def regress(servables: Servables, *values: float, signature: str = "") -> RegressionResponse:
    content = fill(RegressionRequest(), *values, signature=signature)
    return RegressionResponse.FromString(answer_regress(servables, content, Call()))


def classify(servables: Servables, *values: float, signature: str) -> ClassificationResponse:
    content = fill(ClassificationRequest(), *values, signature=signature)
    return ClassificationResponse.FromString(answer_classify(servables, content, Call()))


@pytest.mark.parametrize("signature", ["", "vector"])
def test_regress_gives_a_value_for_each_example(examples: Servables, signature: str) -> None:
    response = regress(examples, 2.0, 4.0, signature=signature)
    assert [regression.value for regression in response.result.regressions] == [3.0, 4.0]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("examples", 5, signature or "serving_default")


def test_classify_gives_classes_and_scores(examples: Servables) -> None:
    def pairs(signature: str) -> list[list[tuple[str, float]]]:
        result = classify(examples, 2.0, 4.0, signature=signature).result
        return [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]

    assert pairs("scores") == [[("", 3.0)], [("", 4.0)]]
    assert pairs("classes") == [[("low", 0.0), ("high", 0.0)]] * 2
    assert pairs("both") == [[("low", 3.0), ("high", -3.0)], [("low", 4.0), ("high", -4.0)]]


def test_a_context_belongs_to_each_example(examples: Servables) -> None:
    request = RegressionRequest()
    request.model_spec.name = "examples"
    entry = request.input.example_list_with_context
    entry.context.features.feature["w"].float_list.value.append(100.0)
    for value in (2.0, 4.0):
        entry.examples.add().features.feature["x"].float_list.value.append(value)
    response = RegressionResponse.FromString(answer_regress(examples, request.SerializeToString(), Call()))
    assert [regression.value for regression in response.result.regressions] == [103.0, 104.0]


def tasks(*named: tuple[str, str], values: tuple[float, ...] = (2.0,)) -> MultiInferenceRequest:
    request = MultiInferenceRequest()
    for signature, method in named:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = "examples"
        task.model_spec.signature_name = signature
    for value in values:
        request.input.example_list.examples.add().features.feature["x"].float_list.value.append(value)
    return request


def test_multi_inference_answers_each_task(examples: Servables) -> None:
    request = tasks(("", REGRESS_METHOD), ("both", CLASSIFY_METHOD), ("scores", CLASSIFY_METHOD))
    content = answer_multi_inference(examples, request.SerializeToString(), Call())
    results = MultiInferenceResponse.FromString(content).results
    assert [result.model_spec.signature_name for result in results] == ["serving_default", "both", "scores"]
    assert results[0].regression_result.regressions[0].value == 3.0
    assert [entry.score for entry in results[1].classification_result.classifications[0].classes] == [3.0, -3.0]
    assert results[2].classification_result.classifications[0].classes[0].score == 3.0


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (tasks(), "request.model-spec", "ModelSpec has no name specified."),
        (
            tasks(("", REGRESS_METHOD), ("serving_default", REGRESS_METHOD)),
            "request.inference-tasks",
            "Duplicate evaluation of signature: serving_default",
        ),
        (
            tasks(("nothing", REGRESS_METHOD)),
            "request.inference-tasks",
            "Requested signature not found in model graph: nothing",
        ),
        (
            tasks(("", "tensorflow/serving/predict")),
            "request.inference-method",
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (tasks(("", REGRESS_METHOD), values=()), "request.example-input", "Input is empty."),
    ],
)
def test_tasks_that_are_refused(examples: Servables, request_: MultiInferenceRequest, code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        answer_multi_inference(examples, request_.SerializeToString(), Call())
    assert (caught.value.code, caught.value.message) == (code, message)


def test_tasks_of_several_models_are_refused(examples: Servables) -> None:
    request = tasks(("", REGRESS_METHOD), ("both", CLASSIFY_METHOD))
    request.tasks[1].model_spec.name = "other"
    with pytest.raises(RequestError, match="must access the same model name"):
        answer_multi_inference(examples, request.SerializeToString(), Call())
    request.tasks[1].model_spec.name = ""
    with pytest.raises(RequestError, match="Found ModelSpec with an empty model name"):
        answer_multi_inference(examples, request.SerializeToString(), Call())


@pytest.mark.parametrize(
    ("signature", "code", "message"),
    [
        ("nothing", "request.example-signature", "No signature was found with the name: nothing"),
        ("two", "request.example-signature", "Expected one input Tensor."),
        ("both", "request.example-signature", "Expected one output Tensor."),
        ("named", "request.example-signature", "No regression inputs found in SignatureDef: "),
        ("scores", "request.example-signature", "No regression outputs found in SignatureDef: "),
        ("numbers", "request.input-type", "Expects arg[0] to be float but string is provided"),
        (
            "wide",
            "request.example-output",
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        ("fewer", "request.example-output", "Input batch size did not match output batch size: 2 vs. 1"),
        ("whole", "request.example-output", "Expected output Tensor of DT_FLOAT.  Got: DT_INT32"),
    ],
)
def test_a_regression_that_is_refused(examples: Servables, signature: str, code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        regress(examples, 1.0, 2.0, signature=signature)
    assert caught.value.code == code
    assert caught.value.message.startswith(message)
    assert caught.value.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("signature", "code", "message"),
    [
        ("nothing", "request.example-signature", "No signature was found with the name: nothing"),
        ("none", "request.example-signature", "Expected one or two output Tensors, found 3"),
        ("unnamed", "request.example-signature", "Expected classification signature outputs to contain at least one"),
        (
            "uneven",
            "request.example-output",
            "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
        ),
        (
            "flat",
            "request.example-output",
            "Expected Tensor shape: [batch_size num_classes] but got [2]",
        ),
        ("doubles", "request.example-output", "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
    ],
)
def test_a_classification_that_is_refused(examples: Servables, signature: str, code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        classify(examples, 1.0, 2.0, signature=signature)
    assert caught.value.code == code
    assert caught.value.message.startswith(message)


def test_examples_that_the_model_cannot_parse_keep_their_values(examples: Servables) -> None:
    request = RegressionRequest()
    request.model_spec.name = "examples"
    example = request.input.example_list.examples.add()
    example.features.feature["x"].bytes_list.value.append(b"canary-771177")
    with pytest.raises(RequestError) as caught:
        answer_regress(examples, request.SerializeToString(), Call())
    assert caught.value.code == "request.execution"
    assert "canary" not in caught.value.message


def test_requests_without_a_model_or_examples(examples: Servables) -> None:
    for answer, kind in ((answer_regress, RegressionRequest), (answer_classify, ClassificationRequest)):
        with pytest.raises(RequestError, match="Missing ModelSpec"):
            answer(examples, fill(kind(), 1.0, model=""), Call())
        with pytest.raises(RequestError, match=f"The request is not a valid {kind.__name__}"):
            answer(examples, b"\xff", Call())
    with pytest.raises(RequestError, match=r"Input is empty\."):
        regress(examples)
    with pytest.raises(RequestError, match="The request is not a valid MultiInferenceRequest"):
        answer_multi_inference(examples, b"\xff", Call())


def test_examples_that_are_too_large(examples: Servables) -> None:
    content = fill(RegressionRequest(), *([1.0] * 100))
    with pytest.raises(RequestError, match=r"exceed the limit of 1024 bytes \(--max_message_bytes\)") as caught:
        answer_regress(examples, content, Call(max_tensor_bytes=1024))
    assert caught.value.code == "request.input-tensor"


def test_a_deadline_that_passed(examples: Servables) -> None:
    with pytest.raises(RequestError) as caught:
        answer_regress(examples, fill(RegressionRequest(), 1.0), Call(deadline=0.0))
    assert caught.value.status is Status.DEADLINE_EXCEEDED


def test_method_names_count_only_where_the_flag_asks(examples: Servables) -> None:
    (entry,) = examples.states("examples").values()
    assert entry.servable is not None
    strict = Servables()
    found = entry.servable
    strict.publish(
        Servable(
            name=found.name,
            version=found.version,
            session=found.session,
            definitions=found.definitions,
            signatures=found.signatures,
            check_method_names=True,
        )
    )
    assert len(regress(strict, 1.0).result.regressions) == 1
    with pytest.raises(
        RequestError,
        match=r"Expected classification signature method_name to be tensorflow/serving/classify\."
        r" Was: tensorflow/serving/regress",
    ):
        classify(strict, 1.0, signature="vector")
