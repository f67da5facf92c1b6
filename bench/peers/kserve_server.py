"""half_plus_two in KServe's Python server. `make bench-peers` runs it in a separate environment.

    python kserve_server.py SAVED_MODEL GRPC_PORT HTTP_PORT

The model is called in the event loop (``async def predict``), which is KServe's fastest method: it uses no thread pool.
"""

import sys
from typing import Any

import tensorflow as tf
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class HalfPlusTwo(Model):  # type: ignore[misc]  # KServe is not in this environment
    """The model.

    Args:
        folder: The SavedModel.
    """

    def __init__(self, folder: str) -> None:
        super().__init__("m")
        self._loaded = tf.saved_model.load(folder)
        self._call = self._loaded.signatures["serving_default"]
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:  # noqa: ARG002  # KServe's signature
        """Answer one request."""
        answer = self._call(x=tf.constant(payload.inputs[0].as_numpy()))["y"].numpy()
        output = InferOutput("y", list(answer.shape), "FP32")
        output.set_data_from_numpy(answer, binary_data=False)
        return InferResponse(payload.id or "0", "m", [output])


def main() -> None:
    """Serve until killed."""
    folder, grpc_port, http_port = sys.argv[1:4]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    server = ModelServer(http_port=int(http_port), grpc_port=int(grpc_port), enable_grpc=True, workers=1)
    server.start([HalfPlusTwo(folder)])


if __name__ == "__main__":
    main()
