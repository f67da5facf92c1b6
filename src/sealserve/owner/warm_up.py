"""Adds a warm-up request to a model, so that the first user's request is as fast as the others.

A model server runs these requests before a version becomes available. TensorFlow prepares a graph in its first run,
which takes 2 seconds for a ResNet50. The inputs are zeros: the preparation depends on their types and shapes only.
"""

from pathlib import Path
from typing import Final

from sealserve.client.tensors import TensorTypeError, zeros
from sealserve.client.wire.prediction_log_pb2 import PredictionLog
from sealserve.model.saved_model import SavedModelInfo, SavedSignature, TensorSpec
from sealserve.owner.codes import OwnerCode
from sealserve.serving_interface import DEFAULT_SIGNATURE, METHODS, WARMUP_REQUESTS
from sealserve.tf_record import record

_PREDICT: Final = METHODS[0]
_HINT: Final = (
    f"Remove warm_up, or put your own requests into {WARMUP_REQUESTS} of a SavedModel: docs/how-to/warm-up.md."
)


def add_warm_up(folder: Path, info: SavedModelInfo, *, name: str) -> bool:
    """Write a file with one warm-up request for the default signature. A model's own file is kept.

    Args:
        folder: The SavedModel.
        info: Its description.
        name: The servable's name.

    Returns:
        Whether the file was written.

    Raises:
        InputError: `model.warm-up`: The signature does not determine the types and shapes of the inputs.
    """
    path = folder / WARMUP_REQUESTS
    if path.exists():
        return False
    signature = _signature(info, name)
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = name
    request.model_spec.signature_name = signature.name
    for spec in signature.inputs:
        try:
            request.inputs[spec.name].CopyFrom(zeros(spec.dtype, _shape(spec, name)))
        except TensorTypeError as error:
            raise OwnerCode.MODEL_WARM_UP.error(
                f"The model {name} has no warm-up request: its input {spec.name} has the type {spec.dtype}, for which"
                " no value can be generated.",
                hint=_HINT,
            ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record(log.SerializeToString()))
    return True


def _signature(info: SavedModelInfo, name: str) -> SavedSignature:
    for signature in info.serving_graph.signatures:
        if signature.name == DEFAULT_SIGNATURE and signature.method in {_PREDICT, ""}:
            return signature
    raise OwnerCode.MODEL_WARM_UP.error(
        f"The model {name} has no warm-up request: it has no signature {DEFAULT_SIGNATURE} for Predict.", hint=_HINT
    )


def _shape(spec: TensorSpec, name: str) -> tuple[int, ...]:
    """Return the input's shape with a batch of 1, if its first dimension is open."""
    shape = spec.shape
    if shape is None or None in shape[1:]:
        text = "any" if shape is None else ", ".join("?" if size is None else str(size) for size in shape)
        raise OwnerCode.MODEL_WARM_UP.error(
            f"The model {name} has no warm-up request: its input {spec.name} has the shape [{text}].", hint=_HINT
        )
    return tuple(1 if size is None else size for size in shape)
