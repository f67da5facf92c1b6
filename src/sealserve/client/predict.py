"""Call the service over gRPC: predictions, a model's signatures, the state of its versions."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from google.protobuf.message import DecodeError

from sealserve.client.call import Method
from sealserve.client.channel import ServiceChannel
from sealserve.client.codes import ClientCode
from sealserve.client.credentials import printable
from sealserve.client.tensors import Array, data_type_name, from_proto, to_proto
from sealserve.client.wire.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
    TensorInfo,
)
from sealserve.client.wire.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from sealserve.client.wire.model_pb2 import ModelSpec
from sealserve.client.wire.predict_pb2 import PredictRequest, PredictResponse
from sealserve.serving_interface import DEFAULT_SIGNATURE, INTERNAL_SIGNATURES

DEFAULT_TIMEOUT = 60.0

_PREDICT = Method("/tensorflow.serving.PredictionService/Predict", PredictResponse)
_METADATA = Method("/tensorflow.serving.PredictionService/GetModelMetadata", GetModelMetadataResponse)
_STATUS = Method("/tensorflow.serving.ModelService/GetModelStatus", GetModelStatusResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedReceipt:
    """A receipt with the messages that it is for. Nothing is verified; see ``sealserve receipt verify``.

    Attributes:
        receipt: The receipt.
        request: The request message, as sent.
        response: The response message, as received.
    """

    receipt: str
    request: bytes = field(repr=False)
    response: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction(Mapping[str, Array]):
    """A model's answer. It is a mapping of the output arrays by name.

    Attributes:
        outputs: The output arrays by name.
        model: The model's name, as reported by the server.
        version: The model's version, or None if the server does not report it.
        signature: The signature that was run.
        instance: Name of the server process that answered, or None if the server does not report it.
        channel: Index of the channel that was used.
        receipt: The receipt, if one was requested.
    """

    outputs: Mapping[str, Array]
    model: str
    version: int | None
    signature: str
    instance: str | None
    channel: int
    receipt: ReceivedReceipt | None = None

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a signature.

    Attributes:
        dtype: The element type: numpy's name, or ``string``.
        shape: The size of each dimension, or None for a dimension of any size. If the rank is open, ``shape`` is None.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature of a model: its inputs and outputs.

    Attributes:
        method: TensorFlow Serving's method, such as ``tensorflow/serving/predict``.
        inputs: The inputs by name.
        outputs: The outputs by name.
        optional: Names of the inputs with a default value, which a request may leave out.
    """

    method: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """Name, version and signatures of a served model."""

    model: str
    version: int
    signatures: Mapping[str, Signature]


class VersionState(StrEnum):
    """State of a version of a model in its life cycle."""

    UNKNOWN = "unknown"
    START = "start"
    LOADING = "loading"
    AVAILABLE = "available"
    UNLOADING = "unloading"
    END = "end"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The state of one version of a model.

    Attributes:
        version: The version.
        state: The state.
        error_code: 0, or the gRPC status code with which loading failed.
        error_message: The server's message about this failure.
    """

    version: int
    state: VersionState
    error_code: int
    error_message: str


class Predictor:
    """A client of the service that uses one or several channels in turn. It is thread-safe.

    Args:
        channels: Open channels. The predictor does not close them.
    """

    def __init__(self, channels: Sequence[ServiceChannel]) -> None:
        if not channels:
            raise ValueError("a predictor needs at least one channel")
        self._channels = tuple(channels)
        self._turns = itertools.count()

    @property
    def channels(self) -> tuple[ServiceChannel, ...]:
        """The channels, in the order of their use."""
        return self._channels

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        outputs: Sequence[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
        channel: int | None = None,
        receipt: bool = False,
        traceparent: str | None = None,
    ) -> Prediction:
        """Run a model.

        Args:
            model: Name of the model.
            inputs: The arrays to send, by input name. Their types must match the signature.
            signature: Name of the signature to run.
            version: Version of the model; None means the newest version.
            label: Label of the version, such as ``stable``, instead of ``version``.
            outputs: Names of the outputs to return; empty means all.
            timeout: Seconds to wait.
            channel: Index of the channel to use; None means the next channel in turn.
            receipt: Whether to request a receipt, which only an attested service can give.
            traceparent: The W3C trace context of the caller's span, such as OpenTelemetry's propagator returns it. A
                service with traces continues the trace.

        Raises:
            VerificationError: `client.no-receipt`: The service sent no receipt, although one was requested.
            InputError: `client.version-choice`: Both ``version`` and ``label`` were given.
            InputError: `client.tensor-too-large`: An input is too large for a request.
            TensorTypeError: The type of an input cannot be sent.
            UnavailableError: `client.tensor-malformed`: An output in the reply is invalid.
            SealserveError: The call failed; see `Method.call`.
        """
        request = PredictRequest(
            model_spec=_model_spec(model, version, label, signature),
            inputs={name: to_proto(array) for name, array in inputs.items()},
            output_filter=outputs,
        )
        chosen = self._next() if channel is None else channel
        sent = request.SerializeToString()
        answer = _PREDICT.exchange(self._channels[chosen], sent, timeout, receipt=receipt, traceparent=traceparent)
        reply = _PREDICT.parse(answer, self._channels[chosen])
        if receipt and answer.receipt is None:
            raise ClientCode.NO_RECEIPT.error(
                f"The service at {self._channels[chosen].endpoint} sent no receipt, although one was requested.",
                hint="Ask the owner whether the service uses attested serving.",
            )
        spec = reply.model_spec
        return Prediction(
            outputs={name: from_proto(tensor) for name, tensor in reply.outputs.items()},
            model=spec.name or model,
            version=spec.version.value if spec.HasField("version") else None,
            signature=spec.signature_name or signature,
            instance=answer.instance,
            channel=chosen,
            receipt=None
            if answer.receipt is None
            else ReceivedReceipt(receipt=answer.receipt, request=sent, response=answer.content),
        )

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> ModelMetadata:
        """Return the signatures of a served model.

        Args:
            model: Name of the model.
            version: Version of the model; None means the newest version.
            label: Label of the version, instead of ``version``.
            timeout: Seconds to wait.

        Raises:
            InputError: `client.version-choice`: Both ``version`` and ``label`` were given.
            UnavailableError: `client.metadata-missing`: The reply does not contain readable signatures.
            SealserveError: The call failed; see `Method.call`.
        """
        request = GetModelMetadataRequest(
            model_spec=_model_spec(model, version, label), metadata_field=["signature_def"]
        )
        chosen = self._channels[self._next()]
        reply = _METADATA.call(chosen, request, timeout)
        signatures = _signatures(reply)
        if signatures is None:
            raise ClientCode.METADATA_MISSING.error(
                f"The metadata of the model {model!r} from {chosen.endpoint} does not contain readable signatures.",
                hint="Check that the service is TensorFlow Serving or sealserve's model server.",
            )
        return ModelMetadata(
            model=reply.model_spec.name or model,
            version=reply.model_spec.version.value,
            signatures=signatures_of(signatures),
        )

    def status(
        self, model: str, *, version: int | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> tuple[VersionStatus, ...]:
        """Return the state of a model's versions, newest first.

        Args:
            model: Name of the model.
            version: The only version to return; None means all versions.
            timeout: Seconds to wait.

        Raises:
            SealserveError: The call failed; see `Method.call`.
        """
        request = GetModelStatusRequest(model_spec=_model_spec(model, version))
        reply = _STATUS.call(self._channels[self._next()], request, timeout)
        found = sorted(reply.model_version_status, key=lambda status: status.version, reverse=True)
        return tuple(_version_status(status) for status in found)

    def _next(self) -> int:
        return next(self._turns) % len(self._channels)


def check_version_choice(version: int | None, label: str | None) -> None:
    """Check that a version is chosen either by its number or by its label.

    Raises:
        InputError: `client.version-choice`: Both were given, or the label is empty.
    """
    if (version is not None and label is not None) or label == "":
        raise ClientCode.VERSION_CHOICE.error(
            f"The choice of a model version is invalid: expected a number or a label, got {version} and {label!r}.",
            hint="Give a number, a label, or neither for the newest version.",
        )


def _model_spec(model: str, version: int | None, label: str | None = None, signature: str = "") -> ModelSpec:
    check_version_choice(version, label)
    spec = ModelSpec(name=model, signature_name=signature, version_label=label)
    if version is not None:
        spec.version.value = version
    return spec


def _signatures(reply: GetModelMetadataResponse) -> SignatureDefMap | None:
    packed = reply.metadata["signature_def"]  # protobuf returns an empty message if the key is missing
    if not packed.type_url.endswith("/tensorflow.serving.SignatureDefMap"):
        return None
    try:
        return SignatureDefMap.FromString(packed.value)
    except DecodeError:
        return None


def signatures_of(found: SignatureDefMap) -> Mapping[str, Signature]:
    """Return the signatures that users may call, by name."""
    return {
        name: Signature(
            method=signature.method_name,
            inputs={key: _tensor_spec(info) for key, info in sorted(signature.inputs.items())},
            outputs={key: _tensor_spec(info) for key, info in sorted(signature.outputs.items())},
            optional=frozenset(signature.defaults),
        )
        for name, signature in sorted(found.signature_def.items())
        if name not in INTERNAL_SIGNATURES
    }


def _tensor_spec(info: TensorInfo) -> TensorSpec:
    if info.tensor_shape.unknown_rank:
        return TensorSpec(data_type_name(info.dtype), None)
    return TensorSpec(
        data_type_name(info.dtype), tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    )


def _version_status(status: ModelVersionStatus) -> VersionStatus:
    known = status.state in ModelVersionStatus.State.values()
    state = VersionState[ModelVersionStatus.State.Name(status.state)] if known else VersionState.UNKNOWN
    return VersionStatus(status.version, state, status.status.error_code, printable(status.status.error_message))
