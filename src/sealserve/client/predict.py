"""Ask the service: predictions, a model's signatures, the state of its versions."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction(Mapping[str, Array]):
    """A model's answer: its outputs by name, and who gave it.

    Attributes:
        outputs: The output arrays by name.
        model: The servable's name, as the server reports it.
        version: Its version, or None where the server does not report one.
        signature: The signature that was run.
        instance: The server process that answered, where it names itself.
        channel: The index of the channel that was used.
    """

    outputs: Mapping[str, Array]
    model: str
    version: int | None
    signature: str
    instance: str | None
    channel: int

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
        dtype: The element type, as numpy names it, or ``string``.
        shape: The size of each dimension, None where it is open; None in its place where even the rank is.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature of a model: what it takes and what it gives, by name.

    Attributes:
        method: TensorFlow Serving's method, such as ``tensorflow/serving/predict``.
        inputs: The inputs.
        outputs: The outputs.
        optional: The names of the inputs that have a default value, so that a request may leave them out.
    """

    method: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a served model looks like from outside."""

    model: str
    version: int
    signatures: Mapping[str, Signature]


class VersionState(StrEnum):
    """Where a version of a servable stands in its life."""

    UNKNOWN = "unknown"
    START = "start"
    LOADING = "loading"
    AVAILABLE = "available"
    UNLOADING = "unloading"
    END = "end"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The state of one version of a servable.

    Attributes:
        version: The version.
        state: Where it stands.
        error_code: 0, or the number of the status (as in gRPC) with which loading failed.
        error_message: What the server says of that.
    """

    version: int
    state: VersionState
    error_code: int
    error_message: str


class Predictor:
    """A client of the service, over one channel or several that take turns. Safe to use from many threads.

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
        """The channels, in the order of their turns."""
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
    ) -> Prediction:
        """Run a model.

        Args:
            model: The servable's name.
            inputs: The arrays to send, by the signature's input names; types must be the signature's.
            signature: Which of the model's signatures to run.
            version: Which version to run; None for the newest.
            label: The label of the version to run, such as ``stable``; in place of ``version``.
            outputs: The outputs to return; none means all.
            timeout: Seconds to wait.
            channel: The index of the channel to use; None for the next in turn.

        Raises:
            InputError: `client.version-choice`: Both ``version`` and ``label``.
            InputError: `client.tensor-too-large`: An input cannot be sent.
            TensorTypeError: An input cannot be sent.
            UnavailableError: `client.tensor-malformed`: An output contradicts itself.
            SealserveError: The call failed; see `Method.call`.
        """
        request = PredictRequest(
            model_spec=_model_spec(model, version, label, signature),
            inputs={name: to_proto(array) for name, array in inputs.items()},
            output_filter=outputs,
        )
        chosen = self._next() if channel is None else channel
        reply, instance = _PREDICT.call(self._channels[chosen], request, timeout)
        spec = reply.model_spec
        return Prediction(
            outputs={name: from_proto(tensor) for name, tensor in reply.outputs.items()},
            model=spec.name or model,
            version=spec.version.value if spec.HasField("version") else None,
            signature=spec.signature_name or signature,
            instance=instance,
            channel=chosen,
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
            model: The servable's name.
            version: Which version; None for the newest.
            label: The label of the version; in place of ``version``.
            timeout: Seconds to wait.

        Raises:
            InputError: `client.version-choice`: Both ``version`` and ``label``.
            UnavailableError: `client.metadata-missing`: The reply has no signatures.
            SealserveError: The call failed; see `Method.call`.
        """
        request = GetModelMetadataRequest(
            model_spec=_model_spec(model, version, label), metadata_field=["signature_def"]
        )
        chosen = self._channels[self._next()]
        reply, _ = _METADATA.call(chosen, request, timeout)
        signatures = _signatures(reply)
        if signatures is None:
            raise ClientCode.METADATA_MISSING.error(
                f"The service at {chosen.endpoint} sent no signatures of {model!r} that can be read.",
                hint="Check that it is TensorFlow Serving, or sealserve's model server.",
            )
        return ModelMetadata(
            model=reply.model_spec.name or model,
            version=reply.model_spec.version.value,
            signatures=signatures_of(signatures),
        )

    def status(
        self, model: str, *, version: int | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> tuple[VersionStatus, ...]:
        """Return the state of a servable's versions, the newest first.

        Args:
            model: The servable's name.
            version: One version; None for all.
            timeout: Seconds to wait.

        Raises:
            SealserveError: The call failed; see `Method.call`.
        """
        request = GetModelStatusRequest(model_spec=_model_spec(model, version))
        reply, _ = _STATUS.call(self._channels[self._next()], request, timeout)
        found = sorted(reply.model_version_status, key=lambda status: status.version, reverse=True)
        return tuple(_version_status(status) for status in found)

    def _next(self) -> int:
        return next(self._turns) % len(self._channels)


def check_version_choice(version: int | None, label: str | None) -> None:
    """Check that a version is chosen by its number or by its label.

    Raises:
        InputError: `client.version-choice`: By both, or by an empty label.
    """
    if (version is not None and label is not None) or label == "":
        raise ClientCode.VERSION_CHOICE.error(
            f"A version cannot be chosen: expected a number or a label, got {version} and {label!r}.",
            hint="Give one of the two, or neither for the newest version.",
        )


def _model_spec(model: str, version: int | None, label: str | None = None, signature: str = "") -> ModelSpec:
    check_version_choice(version, label)
    spec = ModelSpec(name=model, signature_name=signature, version_label=label)
    if version is not None:
        spec.version.value = version
    return spec


def _signatures(reply: GetModelMetadataResponse) -> SignatureDefMap | None:
    packed = reply.metadata["signature_def"]  # an empty one where there is none
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
