"""A child process that asks a model for answers to hostile requests, and writes down each answer as it comes.

    python -m tests.integration.hostile_requests MODEL_FOLDER REQUESTS ANSWERS

Requests and answers are pickled: a signature and its inputs; the outputs, or an error's status and text.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tests.harness.serialised import predict
from tests.unit.serving.conftest import load, server_options

from sealserve.serving.request_errors import RequestError
from sealserve.serving.runtime.protos import PredictRequest, PredictResponse
from sealserve.serving.servables import Servables

TYPES = {"float32": 1, "float64": 2, "int32": 3, "complex64": 8}


def ask(table: Servables, signature: str, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any] | str:
    """Return the outputs as arrays, or the status and the text of the error."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    for alias, array in inputs.items():
        proto = request.inputs[alias]
        proto.dtype, proto.tensor_content = TYPES[array.dtype.name], array.tobytes()
        for size in array.shape:
            proto.tensor_shape.dim.add(size=size)
    try:
        content = predict(table, request.SerializeToString(), max_tensor_bytes=2**24, deadline=None, as_content=True)
    except RequestError as error:
        return f"{error.status.name}: {error}"
    names = {code: name for name, code in TYPES.items()}
    return {
        alias: np.frombuffer(proto.tensor_content, names[proto.dtype]).reshape(
            [dim.size for dim in proto.tensor_shape.dim]
        )
        for alias, proto in PredictResponse.FromString(content).outputs.items()
    }


def main() -> None:
    """Ask everything."""
    folder, requests, answers = map(Path, sys.argv[1:])
    table = Servables()
    table.publish(load(server_options(folder)))
    with answers.open("wb") as lines:
        for signature, inputs in pickle.loads(requests.read_bytes()):  # noqa: S301  # the test has written it
            lines.write(pickle.dumps(("asked", signature, {alias: array.shape for alias, array in inputs.items()})))
            lines.flush()
            lines.write(pickle.dumps(ask(table, signature, inputs)))


if __name__ == "__main__":
    main()
