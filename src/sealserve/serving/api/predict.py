"""Predict: named tensors in, named tensors out.

The numbered steps of `predict`:

1. Find the servable.
2. Find the signature.
3. Check the inputs' names.
4. Check each input's message, type, size and shape before TensorFlow gets it.
5. Choose the outputs.
6. Run the signature.
7. Create the answer.

Source: tensorflow/serving, ``servables/tensorflow/predict_impl.cc`` and ``predict_util.cc``; tensorflow/tensorflow,
``cc/saved_model/util.cc`` (``GetInputValues``). The order of checks, and the messages of the same errors, are theirs.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Final, Protocol

from sealserve.serving.request_errors import LONGEST_MESSAGE, RequestCode, RequestError
from sealserve.serving.runtime.data_types import is_known, type_name
from sealserve.serving.runtime.kernel_errors import told
from sealserve.serving.runtime.libtensorflow import Library, TensorFlowError
from sealserve.serving.runtime.protos import PredictRequest, PredictResponse, TensorProto
from sealserve.serving.runtime.shape_refusal import refusal
from sealserve.serving.runtime.signature import InputTensor, Signature
from sealserve.serving.runtime.tensors import MAX_RANK, Tensor, shape_of, unpacked_size
from sealserve.serving.servables import Servable, Servables
from sealserve.serving_interface import DEFAULT_SIGNATURE, METHODS

LARGEST_EMPTY_EXTENT: Final = 2**20
"""Maximum product of the sizes of an empty tensor, without its zeros and without sizes that the signature declares."""
_LONGEST_SHAPE: Final = 200


class ExecutionError(RequestError):
    """TensorFlow rejected the inputs or failed. The error has TensorFlow's status.

    Args:
        error: TensorFlow's error. Its text may quote inputs, so only known parts without inputs are used.
        signature: The signature that ran.
    """

    code = "request.execution"

    def __init__(self, error: TensorFlowError, signature: str) -> None:
        super().__init__(told(error, signature), status=error.status)


def predict(
    servables: Servables,
    request: PredictRequest,
    *,
    max_tensor_bytes: int,
    deadline: float | None,
    as_content: bool = False,
) -> PredictResponse:
    """Return the answer to ``request``.

    Args:
        servables: The served models.
        request: The request.
        max_tensor_bytes: The maximum size of an input tensor in bytes, after unpacking.
        deadline: The client's deadline on the clock of `time.monotonic`; None for no deadline.
        as_content: Whether outputs are sent as bytes (``tensor_content``) instead of typed fields.

    Raises:
        RequestError: The request cannot be answered.
    """
    if not request.HasField("model_spec"):  # 1
        raise RequestCode.MODEL_SPEC.error("Missing ModelSpec")
    with servables.use(request.model_spec) as servable:
        return run_predict(
            servable, request, max_tensor_bytes=max_tensor_bytes, deadline=deadline, as_content=as_content
        )


def run_predict(
    servable: Servable,
    request: PredictRequest,
    *,
    max_tensor_bytes: int = 2**31,
    deadline: float | None = None,
    as_content: bool = False,
) -> PredictResponse:
    """Return the answer of ``servable`` to ``request``, regardless of the model that the request names.

    Raises:
        RequestError: The request cannot be answered.
    """
    signature = find_signature(servable, request.model_spec.signature_name or DEFAULT_SIGNATURE)  # 2
    _check_method(servable, signature)
    _check_names(signature, request.inputs)  # 3
    values = {
        alias: _tensor(servable.session.library, signature, alias, request.inputs, max_tensor_bytes)  # 4
        for alias in signature.inputs
    }
    _check_used(signature, request.inputs)
    outputs = _outputs(signature, request.output_filter)  # 5
    results = _run(servable, signature, values, outputs, deadline)  # 6
    response = PredictResponse()  # 7
    response.model_spec.name = servable.name
    response.model_spec.signature_name = signature.name
    response.model_spec.version.value = servable.version
    for alias, tensor in results.items():
        tensor.fill(response.outputs[alias], as_content=as_content)
    return response


class PendingInput(Protocol):
    """An input that is converted into a tensor after its type, shape and size were checked."""

    @property
    def dtype(self) -> int:
        """The data type, as in ``DataType``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""

    @property
    def size(self) -> int:
        """The size of the tensor in bytes."""

    def tensor(self, library: Library) -> Tensor:
        """Return the tensor."""


def run_inputs(
    servable: Servable,
    name: str,
    inputs: Mapping[str, PendingInput],
    *,
    max_tensor_bytes: int,
    deadline: float | None,
    outputs: Iterable[str] = (),
) -> Mapping[str, Tensor]:
    """Run a signature and return its outputs, as `run_predict` does, but without protobuf messages.

    Args:
        servable: The model.
        name: The signature's name; empty for the default signature.
        inputs: The inputs by alias.
        max_tensor_bytes: The maximum size of an input tensor in bytes.
        deadline: The client's deadline on the clock of `time.monotonic`; None for no deadline.
        outputs: The aliases of the outputs to return; empty for all outputs.

    Raises:
        RequestError: The request cannot be answered.
    """
    signature = find_signature(servable, name or DEFAULT_SIGNATURE)  # 2
    _check_method(servable, signature)
    _check_names(signature, inputs)  # 3
    for alias in signature.inputs:  # 4
        if alias in inputs:
            given = inputs[alias]
            _check_kind(signature, alias, given.dtype, given.shape)
            _check_size(alias, given.size, max_tensor_bytes)
    _check_used(signature, inputs)
    library = servable.session.library
    values = {
        alias: _made(library, alias, inputs[alias]) if alias in inputs else _default(library, signature, alias, inputs)
        for alias in signature.inputs
    }
    return _run(servable, signature, values, _outputs(signature, outputs), deadline)  # 5 and 6


def find_signature(servable: Servable, name: str) -> Signature:
    """Return a signature that can be called.

    Raises:
        RequestError: `request.signature-not-found`: The model does not have it, or it cannot be called.
    """
    if name in servable.signatures:
        return servable.signatures[name]
    if name in servable.definitions:
        raise uncallable(servable, name)
    raise RequestCode.SIGNATURE_NOT_FOUND.error(f'Serving signature key "{name}" not found.')


def uncallable(servable: Servable, name: str) -> RequestError:
    """Return the error for a signature that exists in the model but cannot be called."""
    reason = servable.obstacles.get(name, "it has inputs or outputs that are not tensors")
    return RequestCode.SIGNATURE_NOT_FOUND.error(f'Serving signature key "{name}" cannot be called: {reason}.')


def _check_method(servable: Servable, signature: Signature) -> None:
    method = servable.definitions[signature.name].method_name
    if servable.check_method_names and method not in METHODS:
        raise RequestCode.SIGNATURE_METHOD.error(
            f"Expected prediction signature method_name to be one of {{{', '.join(METHODS)}}}. Was: {method}"
        )


def _names(names: Iterable[str]) -> str:
    return ",".join(name[:LONGEST_MESSAGE] for name in sorted(names)[:LONGEST_MESSAGE])  # errors are cut anyway


def _check_names(signature: Signature, inputs: Mapping[str, Any]) -> None:
    sent, expected = set(inputs), set(signature.inputs)
    has_defaults = any(tensor.default is not None for tensor in signature.inputs.values())
    if len(sent) > len(expected) or (len(sent) < len(expected) and not has_defaults):
        raise RequestCode.INPUT_NAMES.error(
            f"input size does not match signature: {len(sent)}!={len(expected)}"
            f" len({{{_names(sent)}}}) != len({{{_names(expected)}}})."
            f" Sent extra: {{{_names(sent - expected)}}}. Missing but required: {{{_names(expected - sent)}}}."
        )


def _check_used(signature: Signature, inputs: Mapping[str, Any]) -> None:
    used = set(inputs) & set(signature.inputs)
    if len(used) != len(inputs):
        raise RequestCode.INPUT_NAMES.error(
            f"Inputs contains invalid name. Used request inputs: {_names(used)}, request input: {_names(inputs)}"
        )


def _tensor(
    library: Library, signature: Signature, alias: str, inputs: Mapping[str, TensorProto], max_tensor_bytes: int
) -> Tensor:
    if alias not in inputs:
        return _default(library, signature, alias, inputs)
    proto = inputs[alias]
    if proto.tensor_shape.unknown_rank:
        raise RequestCode.INPUT_TENSOR.error(f"tensor parsing error: {alias}")
    _check_kind(signature, alias, proto.dtype, shape_of(proto))
    _check_size(alias, unpacked_size(proto), max_tensor_bytes)
    return _parsed(library, alias, proto.SerializeToString())


def _default(library: Library, signature: Signature, alias: str, inputs: Iterable[str]) -> Tensor:
    expected = signature.inputs[alias]
    if expected.default is None:
        defaults = (name for name, tensor in signature.inputs.items() if tensor.default is not None)
        raise RequestCode.INPUT_NAMES.error(
            f"Signature input alias: {alias}(feed name: {expected.tensor_name}) not found in request and no default"
            f" value provided. Inputs expected to be in the request {{{_names(inputs)}}}, or default input alias set:"
            f" {_names(defaults)}"
        )
    return _parsed(library, alias, expected.default)


def _parsed(library: Library, alias: str, content: bytes) -> Tensor:
    try:
        return Tensor.from_proto(library, content)
    except TensorFlowError as error:
        raise RequestCode.INPUT_TENSOR.error(f"tensor parsing error: {alias}") from error


def _made(library: Library, alias: str, given: PendingInput) -> Tensor:
    try:
        return given.tensor(library)
    except TensorFlowError as error:
        raise RequestCode.INPUT_TENSOR.error(f"tensor parsing error: {alias}") from error


def _check_kind(signature: Signature, alias: str, dtype: int, shape: Sequence[int]) -> None:
    expected = signature.inputs[alias]
    if not is_known(dtype) or len(shape) > MAX_RANK:
        raise RequestCode.INPUT_TENSOR.error(f"tensor parsing error: {alias}")
    if dtype != expected.dtype:
        position = tuple(signature.inputs).index(alias)
        raise RequestCode.INPUT_TYPE.error(
            f"Expects arg[{position}] to be {type_name(expected.dtype)} but {type_name(dtype)} is provided"
            f" (input {alias!r})"
        )
    if min(shape, default=0) < 0:
        raise RequestCode.INPUT_TENSOR.error(f"tensor parsing error: {alias}")
    _check_extent(expected, alias, shape)
    if not expected.accepts(shape):
        wanted = _shape(expected.shape or ())
        raise RequestCode.INPUT_SHAPE.error(
            f"input {alias!r} has the shape {_shape(shape)}; the signature accepts {wanted}"
        )


def _check_extent(expected: InputTensor, alias: str, shape: Sequence[int]) -> None:
    """Check the sizes of an empty tensor beside its zero. The size in bytes does not limit them.

    TensorFlow multiplies sizes before it looks for a zero. So such shapes can end the process, or use much memory.
    """
    if 0 not in shape:
        return
    declared = (
        expected.shape if expected.shape is not None and len(expected.shape) == len(shape) else [None] * len(shape)
    )
    if prod(max(size, 1) for size, known in zip(shape, declared, strict=True) if size != known) > LARGEST_EMPTY_EXTENT:
        raise RequestCode.INPUT_SHAPE.error(
            f"input {alias!r} is empty and has the shape {_shape(shape)[:_LONGEST_SHAPE]}: the product of its other "
            f"sizes is more than {LARGEST_EMPTY_EXTENT}"
        )


def _check_size(alias: str, size: int, max_tensor_bytes: int) -> None:
    if size > max_tensor_bytes:
        raise RequestCode.INPUT_TENSOR.error(
            f"input {alias!r} exceeds the limit of {max_tensor_bytes} bytes (--max_message_bytes)"
        )


def _shape(sizes: Iterable[int | None]) -> str:
    return "[" + ",".join("?" if size is None else str(size) for size in sizes) + "]"


def _outputs(signature: Signature, output_filter: Iterable[str]) -> tuple[str, ...]:
    chosen: dict[str, None] = {}
    for alias in output_filter:
        if alias not in signature.outputs:
            raise RequestCode.OUTPUT_FILTER.error(
                f"output tensor alias not found in signature: {alias}"
                f" Outputs expected to be in the set {{{_names(signature.outputs)}}}."
            )
        if alias in chosen:
            raise RequestCode.OUTPUT_FILTER.error(f"duplicate output tensor alias: {alias}")
        chosen[alias] = None
    return tuple(chosen or signature.outputs)


def _run(
    servable: Servable,
    signature: Signature,
    values: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    deadline: float | None,
) -> Mapping[str, Tensor]:
    timeout = remaining(deadline)
    started = time.monotonic()
    try:
        results = signature.run(servable.session, values, outputs, timeout=timeout)
    except TensorFlowError as error:
        if (refused := refusal(error)) is not None:
            given = ", ".join(
                f"input {alias!r} has the shape {_shape(tensor.shape)}" for alias, tensor in values.items()
            )
            raise RequestCode.INPUT_SHAPE.error(f"{given}: {refused}") from error
        raise ExecutionError(error, signature.name) from error
    servable.metrics.runtime_latency(servable.name, "Predict", time.monotonic() - started)
    return results


def remaining(deadline: float | None) -> float | None:
    """Return the seconds until ``deadline``, or None if no deadline is set.

    Raises:
        RequestError: `request.deadline-exceeded`: The deadline has passed.
    """
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise RequestCode.DEADLINE_EXCEEDED.error("The deadline passed before the request was run.")
    return seconds
