"""The operations of the Open Inference Protocol, independent of gRPC and HTTP."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sealserve import __version__
from sealserve.serving.api.predict import PendingInput, find_signature, run_inputs
from sealserve.serving.open_inference.datatypes import BYTES, Datatype, datatype_of
from sealserve.serving.open_inference.inputs import Input
from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.protos import ModelSpec, TensorInfo
from sealserve.serving.runtime.session import declared_shape
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.servables import Servables
from sealserve.serving_interface import DEFAULT_SIGNATURE

NAME: Final = "sealserve"
VERSION: Final = __version__
EXTENSIONS: Final = ("binary_tensor_data",)
"""The only extension: tensors as bytes after the JSON of a REST message (``extension_binary_data.md``)."""
PLATFORM: Final = "tensorflow_savedmodel"
_I = TypeVar("_I", bound=Input)
_ANY_SIZE: Final = -1
_VERSION: Final = re.compile(r"0*([0-9]{1,19})", re.ASCII)
_GREATEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """A request to run a model.

    Args:
        spec: The model and the version.
        signature: The signature's name; empty for the default signature.
        inputs: The inputs by name.
        outputs: The names of the requested outputs; empty for all outputs.
    """

    spec: ModelSpec
    signature: str
    inputs: Mapping[str, PendingInput]
    outputs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a model.

    Args:
        name: The output's name.
        datatype: The datatype.
        tensor: The tensor.
    """

    name: str
    datatype: Datatype
    tensor: Tensor

    def raw(self) -> bytes:
        """Return the elements as bytes, row by row. Each element of BYTES has its length before it."""
        if self.datatype.name != BYTES:
            return self.tensor.content()
        return b"".join(part for text in self.tensor.strings() for part in (len(text).to_bytes(4, "little"), text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """The result of a request.

    Args:
        model: The model's name.
        version: The version that computed the outputs.
        outputs: The outputs, in the order of the request.
    """

    model: str
    version: str
    outputs: Sequence[Output]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    """The description of an input or an output.

    Args:
        name: The name.
        datatype: The name of the datatype.
        shape: The size of each dimension; -1 for any size. A tensor of any rank is described as ``[-1]``.
    """

    name: str
    datatype: str
    shape: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """The description of a model.

    Args:
        name: The model's name.
        versions: The available versions, in ascending order.
        inputs: The inputs of the default signature.
        outputs: The outputs of the default signature.
    """

    name: str
    versions: Sequence[str]
    inputs: Sequence[TensorMetadata]
    outputs: Sequence[TensorMetadata]


class OpenInference:
    """The operations on the served models.

    Args:
        servables: The served models.
        max_tensor_bytes: The maximum size of an input tensor in bytes.
        is_ready: Returns whether the server accepts requests, which is false while it drains.
    """

    def __init__(self, servables: Servables, *, max_tensor_bytes: int, is_ready: Callable[[], bool]) -> None:
        self._servables = servables
        self._largest = max_tensor_bytes
        self.is_ready = is_ready
        self.metrics = servables.metrics

    def is_model_ready(self, spec: ModelSpec) -> bool:
        """Return whether a model, or a version of it, is available.

        Raises:
            RequestError: `request.servable-not-found`: The server does not have the model or the version.
        """
        states = self._servables.states(spec.name)
        version = self._version(spec)
        if version is not None:
            states = {version: states[version]} if version in states else {}
        if not states:
            which = spec.name if version is None else f"{spec.name}, version {version}"
            raise RequestCode.SERVABLE_NOT_FOUND.error(f"The server does not have the model {which}.")
        return any(state.servable is not None for state in states.values())

    def model_metadata(self, spec: ModelSpec) -> ModelMetadata:
        """Return the description of a model.

        Raises:
            RequestError: The model is not available, or its default signature cannot be described.
        """
        with self._servables.use(spec) as servable:
            signature = find_signature(servable, DEFAULT_SIGNATURE)
            definition = servable.definitions[signature.name]
            states = self._servables.states(servable.name)
            return ModelMetadata(
                name=servable.name,
                versions=[str(version) for version, state in sorted(states.items()) if state.servable is not None],
                inputs=[_described("input", alias, definition.inputs[alias]) for alias in signature.inputs],
                outputs=[_described("output", alias, definition.outputs[alias]) for alias in signature.outputs],
            )

    def infer(self, request: InferenceRequest, deadline: float | None) -> Inference:
        """Run a model.

        Args:
            request: The request.
            deadline: The client's deadline on the clock of `time.monotonic`; None for no deadline.

        Raises:
            RequestError: The request cannot be answered.
        """
        with self._servables.use(request.spec) as servable:
            results = run_inputs(
                servable,
                request.signature,
                request.inputs,
                max_tensor_bytes=self._largest,
                deadline=deadline,
                outputs=request.outputs,
            )
        outputs = [
            Output(alias, datatype_of(tensor.dtype, f"output {alias!r}"), tensor) for alias, tensor in results.items()
        ]
        return Inference(model=servable.name, version=str(servable.version), outputs=outputs)

    def _version(self, spec: ModelSpec) -> int | None:
        """Return the version that ``spec`` selects by its number or its label, or None for the latest version."""
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return int(spec.version.value)
        if choice is None:
            return None
        version = self._servables.label(spec.name, spec.version_label)
        if version is None:
            raise RequestCode.MODEL_SPEC.error(f"Unrecognized servable version label: {spec.version_label}")
        return version


def model_spec(name: str, version: str) -> ModelSpec:
    """Return the selection of a model.

    Args:
        name: The model's name.
        version: The number or the label of a version; empty for the latest version.
    """
    spec = ModelSpec(name=name)
    number = _VERSION.fullmatch(version)
    if number is not None and int(number[1]) <= _GREATEST:
        spec.version.value = int(number[1])
    elif version:
        spec.version_label = version
    return spec


def by_name(inputs: Iterable[_I]) -> dict[str, _I]:
    """Return the inputs by name.

    Raises:
        RequestError: `request.open-inference-form`: A name occurs twice.
    """
    found: dict[str, _I] = {}
    for given in inputs:
        if given.alias in found:
            raise RequestCode.OPEN_INFERENCE_FORM.error(f"The input {given.alias!r} occurs twice.")
        found[given.alias] = given
    return found


def _described(kind: str, alias: str, info: TensorInfo) -> TensorMetadata:
    shape = declared_shape(info)
    sizes = [_ANY_SIZE] if shape is None else [_ANY_SIZE if size is None else size for size in shape]
    return TensorMetadata(name=alias, datatype=datatype_of(info.dtype, f"{kind} {alias!r}").name, shape=sizes)
