"""Serialized predict requests: each is answered or rejected, and TensorFlow in this process does not crash."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.harness.serialised import predict
from tests.harness.tiny_model import saved_model

from sealserve.serving.command_line import options
from sealserve.serving.lifecycle.loading import Loader
from sealserve.serving.request_errors import RequestError
from sealserve.serving.runtime.protos import DataType, PredictRequest, PredictResponse
from sealserve.serving.servables import Servables


@cache
def servables() -> Servables:
    """Return the loaded model half_plus_two."""
    with tempfile.TemporaryDirectory() as folder:
        saved_model(Path(folder) / "1")
        chosen = options.parse(["--dangerous_plaintext", "--model_name=m", f"--model_base_path={folder}"])
        assert isinstance(chosen, options.ServerOptions)
        table = Servables()
        table.publish(Loader(options=chosen, files=None).load("m", 1, Path(folder) / "1"))
    return table


def seeds() -> Iterator[bytes]:
    """Yield valid and invalid requests."""
    for values, size in (([1.0, 2.0], 2), ([], 0), ([1.0], 5), ([1.0, 2.0, 3.0], 2), ([1.0], -1), ([1.0], 2**40)):
        request = PredictRequest(output_filter=["y"])
        request.model_spec.name = "m"
        proto = request.inputs["x"]
        proto.dtype = DataType.Value("DT_FLOAT")
        proto.tensor_shape.dim.add(size=size)
        proto.float_val.extend(values)
        yield bytes(request.SerializeToString())
    for dtype in (0, 2, 7, 19, 23, 101):
        request = PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].dtype = dtype
        request.inputs["x"].tensor_content = b"\1\2\3"
        yield bytes(request.SerializeToString())


def fuzz(data: bytes) -> None:
    """Send ``data`` as a predict request."""
    try:
        content = predict(servables(), data, max_tensor_bytes=2**16, deadline=None)
    except RequestError:
        return
    PredictResponse.FromString(content)
