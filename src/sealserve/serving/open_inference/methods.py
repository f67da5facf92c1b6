"""The gRPC methods of ``inference.GRPCInferenceService``.

A response has raw contents if the request has raw contents or asks for them, or if an output has a type that only raw
contents can hold. This is the behavior of KServe. Clients of Triton always send raw contents.

Source: kserve/open-inference-protocol d49cc23, ``open_inference_grpc.proto``; kserve/kserve,
``python/kserve/kserve/protocol/infer_type.py``.
"""

from array import array
from collections.abc import Mapping
from typing import Any, Final

from sealserve.serving.open_inference import open_inference_grpc_pb2 as pb
from sealserve.serving.open_inference import parameters
from sealserve.serving.open_inference.datatypes import BOOL, BYTES, datatype_named
from sealserve.serving.open_inference.inputs import RawInput, TypedInput
from sealserve.serving.open_inference.service import (
    EXTENSIONS,
    NAME,
    PLATFORM,
    VERSION,
    Inference,
    InferenceRequest,
    OpenInference,
    Output,
    TensorMetadata,
    by_name,
    model_spec,
)
from sealserve.serving.receipts import Receipts
from sealserve.serving.request_errors import LONGEST_NAME, RequestCode
from sealserve.serving.spans import Begin
from sealserve.serving.wire.field_counts import Counted, check_counts
from sealserve.serving.wire.lanes import Lane
from sealserve.serving.wire.rpc import Method, Route, counted, parsed

SERVICE: Final = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MODEL_INFER: Final = "ModelInfer"
_FIELDS: Final = pb.ModelInferRequest.DESCRIPTOR.fields_by_name
_REQUEST: Final = Counted({_FIELDS["inputs"].number: Counted(), _FIELDS["outputs"].number: Counted()})


def routes(
    service: OpenInference, *, inference: Lane, control: Lane, receipts: Receipts, begin_trace: Begin | None = None
) -> dict[str, Route]:
    """Return the routes of the service.

    Args:
        service: The operations.
        inference: The lane of requests that run a model.
        control: The lane of all other requests.
        receipts: Adds receipts to answers that depend on a model.
        begin_trace: Decides whether a request that runs a model is traced; None if no request is.
    """
    found = {name: Route(method=method, lane=control) for name, method in _control_methods(service).items()}
    found["ModelMetadata"] = Route(method=_metadata_method(service), lane=control, receipts=receipts)
    found[MODEL_INFER] = Route(
        method=_infer_method(service), lane=inference, receipts=receipts, begin_trace=begin_trace
    )
    return {f"/{SERVICE}/{name}": route for name, route in found.items()}


def _control_methods(service: OpenInference) -> Mapping[str, Method]:
    """Return the methods that do not run a model, by name."""

    def model_ready(request: pb.ModelReadyRequest, _: float | None) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=service.is_model_ready(model_spec(request.name, request.version)))

    def server_metadata(_request: pb.ServerMetadataRequest, _: float | None) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=NAME, version=VERSION, extensions=EXTENSIONS)

    return {
        "ServerLive": parsed(pb.ServerLiveRequest, lambda _request, _: pb.ServerLiveResponse(live=True)),
        "ServerReady": parsed(
            pb.ServerReadyRequest, lambda _request, _: pb.ServerReadyResponse(ready=service.is_ready())
        ),
        "ServerMetadata": parsed(pb.ServerMetadataRequest, server_metadata),
        "ModelReady": parsed(pb.ModelReadyRequest, model_ready),
    }


def _metadata_method(service: OpenInference) -> Method:
    """Return the method ModelMetadata."""

    def answer(request: pb.ModelMetadataRequest, _: float | None) -> pb.ModelMetadataResponse:
        found = service.model_metadata(model_spec(request.name, request.version))
        return pb.ModelMetadataResponse(
            name=found.name,
            versions=found.versions,
            platform=PLATFORM,
            inputs=map(_described, found.inputs),
            outputs=map(_described, found.outputs),
        )

    return parsed(pb.ModelMetadataRequest, answer)


def _infer_method(service: OpenInference) -> Method:
    """Return the method ModelInfer."""

    def answer(request: pb.ModelInferRequest, deadline: float | None) -> pb.ModelInferResponse:
        given = _parameters(request.parameters)
        parameters.check(given, "the request")
        is_raw = bool(request.raw_input_contents) or parameters.flag(given, parameters.BINARY_DATA_OUTPUT)
        inference = service.infer(_read(request, given), deadline)
        return _response(inference, request.id, is_raw=is_raw)

    return counted(
        MODEL_INFER,
        pb.ModelInferRequest,
        answer,
        service.metrics,
        model=lambda request: str(request.model_name),
        check=lambda content: check_counts(content, _REQUEST),
    )


def _read(request: pb.ModelInferRequest, given: parameters.Parameters) -> InferenceRequest:
    """Return the request of a message.

    Raises:
        RequestError: The message does not have the form that the protocol requires.
    """
    for output in request.outputs:
        _check_name(output.name, "an output")
        parameters.check(_parameters(output.parameters), f"the output {output.name!r}")
    return InferenceRequest(
        spec=model_spec(request.model_name, request.model_version),
        signature=parameters.signature_name(given),
        inputs=read_inputs(request),
        outputs=[output.name for output in request.outputs],
    )


def read_inputs(request: pb.ModelInferRequest) -> dict[str, RawInput | TypedInput]:
    """Return the inputs of a message by name.

    Raises:
        RequestError: The message does not have the form that the protocol requires.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestCode.OPEN_INFERENCE_FORM.error(
            f"raw_input_contents is invalid: expected the contents of {len(request.inputs)} inputs, got {len(raw)}."
        )
    return by_name(_input(tensor, raw[index] if raw else None) for index, tensor in enumerate(request.inputs))


def _input(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> RawInput | TypedInput:
    _check_name(tensor.name, "an input")
    parameters.check(_parameters(tensor.parameters), f"the input {tensor.name!r}")
    datatype = datatype_named(tensor.datatype, tensor.name)
    shape = tuple(tensor.shape)
    if raw is None:
        contents = getattr(tensor.contents, datatype.field) if datatype.field else ()
        return TypedInput(alias=tensor.name, datatype=datatype, shape=shape, contents=contents)
    if tensor.HasField("contents"):
        raise RequestCode.OPEN_INFERENCE_FORM.error(
            f"The input {tensor.name!r} has contents, but the request has raw_input_contents. Send only one of them."
        )
    return RawInput(alias=tensor.name, datatype=datatype, shape=shape, contents=raw)


def _check_name(name: str, what: str) -> None:
    if len(name) > LONGEST_NAME:
        raise RequestCode.OPEN_INFERENCE_FORM.error(f"The name of {what} is longer than {LONGEST_NAME} characters.")


def _parameters(given: Mapping[str, pb.InferParameter]) -> parameters.Parameters:
    if not given:
        return {}
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], field) if field else None for name, field in chosen.items()}


def _response(inference: Inference, request_id: str, *, is_raw: bool) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=inference.model, model_version=inference.version, id=request_id)
    is_raw = is_raw or any(not output.datatype.field for output in inference.outputs)
    for output in inference.outputs:
        tensor = response.outputs.add(name=output.name, datatype=output.datatype.name, shape=output.tensor.shape)
        if is_raw:
            response.raw_output_contents.append(output.raw())
        else:
            getattr(tensor.contents, output.datatype.field).extend(_values(output))
    return response


def _values(output: Output) -> Any:
    """Return the elements as Python values."""
    if output.datatype.name == BYTES:
        return output.tensor.strings()
    values: array[Any] = array(output.datatype.code, output.tensor.content())
    return map(bool, values) if output.datatype.name == BOOL else values


def _described(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
