"""Classify, Regress and MultiInference: the input is a list of ``tensorflow.Example``, the output are scores or values.

Source: tensorflow/serving, ``servables/tensorflow/classifier.cc``, ``regressor.cc``, ``multi_inference.cc`` and
``util.cc`` (``InputToSerializedExampleTensor``) for the order of checks and the messages; tensorflow/tensorflow,
``cc/saved_model/signature_constants.h`` (names).
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sealserve.serving.api.predict import ExecutionError, remaining, uncallable
from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.data_types import type_name
from sealserve.serving.runtime.libtensorflow import Endpoint, TensorFlowError
from sealserve.serving.runtime.protos import (
    ClassificationRequest,
    ClassificationResponse,
    ClassificationResult,
    DataType,
    Input,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
    RegressionRequest,
    RegressionResponse,
    RegressionResult,
    SignatureDef,
    TensorProto,
)
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.servables import Servable, Servables
from sealserve.serving_interface import DEFAULT_SIGNATURE

CLASSIFY_METHOD: Final = "tensorflow/serving/classify"
REGRESS_METHOD: Final = "tensorflow/serving/regress"

_INPUTS: Final = "inputs"
_CLASSES: Final = "classes"
_SCORES: Final = "scores"
_OUTPUTS: Final = "outputs"
_FLOAT: Final = DataType.Value("DT_FLOAT")
_STRING: Final = DataType.Value("DT_STRING")
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The limits of one call.

    Args:
        max_tensor_bytes: The maximum size of an input in bytes.
        deadline: The client's deadline on the clock of `time.monotonic`; None for no deadline.
    """

    max_tensor_bytes: int = 2**31
    deadline: float | None = None


_UNBOUNDED: Final = Call()


def answer_classify(servables: Servables, request: ClassificationRequest, call: Call) -> ClassificationResponse:
    """Return the answer of the model that ``request`` names.

    Raises:
        RequestError: The request cannot be answered.
    """
    with servables.use(_spec(request)) as servable:
        return classify(servable, request, call)


def answer_regress(servables: Servables, request: RegressionRequest, call: Call) -> RegressionResponse:
    """Return the answer of the model that ``request`` names.

    Raises:
        RequestError: The request cannot be answered.
    """
    with servables.use(_spec(request)) as servable:
        return regress(servable, request, call)


def answer_multi_inference(servables: Servables, request: MultiInferenceRequest, call: Call) -> MultiInferenceResponse:
    """Return the answer of the model that the first task of ``request`` names.

    Raises:
        RequestError: The request cannot be answered.
    """
    spec = request.tasks[0].model_spec if request.tasks else ModelSpec()
    with servables.use(spec) as servable:
        return multi_inference(servable, request, call)


def _spec(request: ClassificationRequest | RegressionRequest) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise RequestCode.MODEL_SPEC.error("Missing ModelSpec")
    return request.model_spec


def classify(servable: Servable, request: ClassificationRequest, call: Call = _UNBOUNDED) -> ClassificationResponse:
    """Return classes and scores for each example of ``request``.

    Raises:
        RequestError: The request cannot be answered.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    outputs = _classify_outputs(servable, _definition(servable, name))
    results, count = _run(servable, [name], {name: outputs}, request.input, call, api="Classify")
    response = ClassificationResponse()
    _name_answer(response.model_spec, request.model_spec.name, name, servable)
    _fill_classes(response.result, results[name].get(_CLASSES), results[name].get(_SCORES), count)
    return response


def regress(servable: Servable, request: RegressionRequest, call: Call = _UNBOUNDED) -> RegressionResponse:
    """Return a value for each example of ``request``.

    Raises:
        RequestError: The request cannot be answered.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    outputs = _regress_outputs(servable, _definition(servable, name))
    results, count = _run(servable, [name], {name: outputs}, request.input, call, api="Regress")
    response = RegressionResponse()
    _name_answer(response.model_spec, request.model_spec.name, name, servable)
    _fill_values(response.result, results[name][_OUTPUTS], count)
    return response


def multi_inference(
    servable: Servable, request: MultiInferenceRequest, call: Call = _UNBOUNDED
) -> MultiInferenceResponse:
    """Return the answers to all tasks of ``request``, computed from the same examples in one run of the graph.

    Raises:
        RequestError: The request cannot be answered.
    """
    outputs: dict[str, tuple[str, ...]] = {}
    model = ""
    for task in request.tasks:
        if not task.model_spec.name:
            raise RequestCode.INFERENCE_TASKS.error("Found ModelSpec with an empty model name.")
        model = model or task.model_spec.name
        if task.model_spec.name != model:
            raise RequestCode.INFERENCE_TASKS.error(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in outputs:
            raise RequestCode.INFERENCE_TASKS.error(f"Duplicate evaluation of signature: {name}")
        definition = servable.definitions.get(name)
        if definition is None:
            raise RequestCode.INFERENCE_TASKS.error(f"Requested signature not found in model graph: {name}")
        if task.method_name == CLASSIFY_METHOD:
            outputs[name] = _classify_outputs(servable, definition)
        elif task.method_name == REGRESS_METHOD:
            outputs[name] = _regress_outputs(servable, definition)
        else:
            raise RequestCode.INFERENCE_METHOD.error(f"Unsupported signature method_name: {task.method_name}")
    results, count = _run(servable, list(outputs), outputs, request.input, call, api="")
    servable.metrics.examples(model, count)
    response = MultiInferenceResponse()
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        result = response.results.add()
        _name_answer(result.model_spec, task.model_spec.name, name, servable)
        if task.method_name == CLASSIFY_METHOD:
            tensors = results[name]
            _fill_classes(result.classification_result, tensors.get(_CLASSES), tensors.get(_SCORES), count)
        else:
            _fill_values(result.regression_result, results[name][_OUTPUTS], count)
    return response


def _definition(servable: Servable, name: str) -> SignatureDef:
    definition = servable.definitions.get(name)
    if definition is None:
        raise RequestCode.EXAMPLE_SIGNATURE.error(f"No signature was found with the name: {name}")
    return definition


def _classify_outputs(servable: Servable, definition: SignatureDef) -> tuple[str, ...]:
    """Return the outputs to fetch, after checking that the signature is one for classification."""
    _check_method(servable, definition, CLASSIFY_METHOD, "classification")
    if len(definition.inputs) != 1:
        raise RequestCode.EXAMPLE_SIGNATURE.error("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        raise RequestCode.EXAMPLE_SIGNATURE.error(
            f"Expected one or two output Tensors, found {len(definition.outputs)}"
        )
    if _INPUTS not in definition.inputs:
        raise RequestCode.EXAMPLE_SIGNATURE.error(f"No classification inputs found in SignatureDef: {definition}")
    outputs = tuple(alias for alias in (_CLASSES, _SCORES) if alias in definition.outputs)
    if not outputs:
        raise RequestCode.EXAMPLE_SIGNATURE.error(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}".'
            f" Signature was: {definition}"
        )
    return outputs


def _regress_outputs(servable: Servable, definition: SignatureDef) -> tuple[str, ...]:
    """Return the output to fetch, after checking that the signature is one for regression."""
    _check_method(servable, definition, REGRESS_METHOD, "regression")
    if len(definition.inputs) != 1:
        raise RequestCode.EXAMPLE_SIGNATURE.error("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise RequestCode.EXAMPLE_SIGNATURE.error("Expected one output Tensor.")
    if _INPUTS not in definition.inputs:
        raise RequestCode.EXAMPLE_SIGNATURE.error(f"No regression inputs found in SignatureDef: {definition}")
    if _OUTPUTS not in definition.outputs:
        raise RequestCode.EXAMPLE_SIGNATURE.error(f"No regression outputs found in SignatureDef: {definition}")
    return (_OUTPUTS,)


def _check_method(servable: Servable, definition: SignatureDef, method: str, kind: str) -> None:
    if servable.check_method_names and definition.method_name != method:
        raise RequestCode.EXAMPLE_SIGNATURE.error(
            f"Expected {kind} signature method_name to be {method}. Was: {definition.method_name}"
        )


def _run(
    servable: Servable,
    names: Iterable[str],
    outputs: Mapping[str, tuple[str, ...]],
    examples: Input,
    call: Call,
    *,
    api: str,
) -> tuple[Mapping[str, Mapping[str, Tensor]], int]:
    """Run the signatures ``names``; return their outputs by name and alias, and the number of examples."""
    serialised = _serialised(examples)
    size = sum(map(len, serialised))
    if size > call.max_tensor_bytes:
        raise RequestCode.INPUT_TENSOR.error(
            f"the examples exceed the limit of {call.max_tensor_bytes} bytes (--max_message_bytes)"
        )
    proto = TensorProto(dtype=_STRING, string_val=serialised)
    proto.tensor_shape.dim.add(size=len(serialised))
    tensor = Tensor.from_proto(servable.session.library, proto.SerializeToString())
    feeds: dict[tuple[int | None, int], Endpoint] = {}
    fetches: dict[str, Endpoint] = {}
    for name in names:
        signature = servable.signatures.get(name)
        if signature is None:
            raise uncallable(servable, name)
        entry = signature.inputs[_INPUTS]
        if entry.dtype != _STRING:
            raise RequestCode.INPUT_TYPE.error(f"Expects arg[0] to be {type_name(entry.dtype)} but string is provided")
        feeds[entry.endpoint.operation, entry.endpoint.index] = entry.endpoint
        definition = servable.definitions[name]
        fetches.update({definition.outputs[alias].name: signature.outputs[alias] for alias in outputs[name]})
    started = time.monotonic()
    try:
        tensors = servable.session.run(
            [(endpoint, tensor) for endpoint in feeds.values()],
            list(fetches.values()),
            timeout=remaining(call.deadline),
        )
    except TensorFlowError as error:
        raise ExecutionError(error, ", ".join(outputs)) from error
    if api:
        servable.metrics.runtime_latency(servable.name, api, time.monotonic() - started)
    by_tensor = dict(zip(fetches, tensors, strict=True))
    results = {
        name: {alias: by_tensor[servable.definitions[name].outputs[alias].name] for alias in outputs[name]}
        for name in outputs
    }
    return results, len(serialised)


def _serialised(examples: Input) -> list[bytes]:
    """Return the serialized examples. A context is put before each example, which adds the context's features to it."""
    if examples.WhichOneof("kind") == "example_list_with_context":
        context = examples.example_list_with_context.context.SerializeToString()
        found = [context + example.SerializeToString() for example in examples.example_list_with_context.examples]
    else:
        found = [example.SerializeToString() for example in examples.example_list.examples]
    if not found:
        raise RequestCode.EXAMPLE_INPUT.error("Input is empty.")
    return found


def _name_answer(spec: Any, model: str, signature: str, servable: Servable) -> None:
    spec.name = model
    spec.signature_name = signature
    spec.version.value = servable.version


def _fill_classes(result: ClassificationResult, classes: Tensor | None, scores: Tensor | None, count: int) -> None:
    for tensor, alias, dtype in ((classes, _CLASSES, _STRING), (scores, _SCORES, _FLOAT)):
        if tensor is None:
            continue
        if len(tensor.shape) != _MATRIX:
            raise RequestCode.EXAMPLE_OUTPUT.error(
                f"Expected Tensor shape: [batch_size num_classes] but got {_debug(tensor.shape)}"
            )
        if tensor.dtype != dtype:
            raise RequestCode.EXAMPLE_OUTPUT.error(
                f"Expected {alias} Tensor of {DataType.Name(dtype)}. Got: {DataType.Name(tensor.dtype)}"
            )
        if tensor.shape[0] != count:
            raise RequestCode.EXAMPLE_OUTPUT.error(
                f"Expected {alias} output batch size of {count}. Got: {tensor.shape[0]}"
            )
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise RequestCode.EXAMPLE_OUTPUT.error(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    present = classes if classes is not None else scores
    width = present.shape[1] if present is not None else 0
    labels = classes.strings() if classes is not None else [b""] * (count * width)
    values = scores.floats() if scores is not None else [0.0] * (count * width)
    for row in range(count):
        found = result.classifications.add().classes
        for column in range(row * width, (row + 1) * width):
            found.add(label=_label(labels[column]), score=values[column])


def _label(text: bytes) -> str:
    """Return a class's label as text. Bytes that are not UTF-8 are replaced, since a message cannot contain them."""
    return text.decode("utf-8", "replace")


def _fill_values(result: RegressionResult, tensor: Tensor, count: int) -> None:
    shape = tensor.shape
    if not (len(shape) == 1 or (len(shape) == _MATRIX and shape[1] == 1)):
        raise RequestCode.EXAMPLE_OUTPUT.error(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_debug(shape)}"
        )
    if shape[0] != count:
        raise RequestCode.EXAMPLE_OUTPUT.error(
            f"Input batch size did not match output batch size: {count} vs. {shape[0]}"
        )
    if tensor.dtype != _FLOAT:
        raise RequestCode.EXAMPLE_OUTPUT.error(
            f"Expected output Tensor of DT_FLOAT.  Got: {DataType.Name(tensor.dtype)}"
        )
    for value in tensor.floats():
        result.regressions.add(value=value)


def _debug(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
