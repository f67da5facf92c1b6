"""half_plus_two in MLServer: the runtime that the settings from ``bench/serving.py`` name."""

from pathlib import Path

import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class HalfPlusTwo(MLModel):  # type: ignore[misc]  # MLServer is not in this environment
    """The model. The setting ``uri`` is the path of the SavedModel."""

    async def load(self) -> bool:
        """Load the model."""
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._loaded = tf.saved_model.load(str(Path(self.settings.parameters.uri)))
        self._call = self._loaded.signatures["serving_default"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        answer = self._call(x=tf.constant(NumpyCodec.decode_input(payload.inputs[0])))["y"].numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", answer)])
