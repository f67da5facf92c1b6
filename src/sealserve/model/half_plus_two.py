"""A SavedModel that computes ``y = x / 2 + 2``: the example from TensorFlow Serving's tutorials."""

from pathlib import Path

from sealserve.model.convert import tensorflow_writes
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.whole_folder import appearing


def write_half_plus_two(folder: Path) -> None:
    """Write the model as a SavedModel with one signature, from ``x`` to ``y``: vectors of float32.

    Raises:
        UnavailableError: `model.tensorflow-missing`: TensorFlow is not installed.
        OutputExistsError: The folder already exists.
        UnavailableError: `file.unwritable`, `file.disk-full`: The model cannot be written.
    """
    tf = import_tensorflow()
    module = tf.Module()
    module.factor = tf.Variable(0.5)
    signature = [tf.TensorSpec([None], tf.float32, name="x")]
    predict = tf.function(lambda x: {"y": module.factor * x + 2.0}, input_signature=signature, autograph=False)
    with appearing(folder) as temporary, tensorflow_writes():
        tf.saved_model.save(module, str(temporary), signatures=predict)
