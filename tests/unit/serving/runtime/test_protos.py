import subprocess
import sys

import pytest

from sealserve.serving.runtime import protos
from sealserve.serving.runtime.protos import TensorFlowMissingError

STAND_IN = """
import sys
from sealserve.serving.runtime import protos
assert "tensorflow" not in sys.modules, "the stand-in stayed"
assert "tensorflow.python" not in sys.modules, "TensorFlow was imported"
assert protos.PredictRequest.DESCRIPTOR.full_name == "tensorflow.serving.PredictRequest"
"""

THEN_TENSORFLOW = """
import tensorflow as tf
assert tf.constant(2.0).numpy() == 2.0
assert isinstance(tf.make_tensor_proto(1.0), protos.TensorProto)
assert protos.tensorflow_folder().joinpath("libtensorflow_cc.so.2").is_file()
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_messages_come_without_tensorflow() -> None:
    run(STAND_IN)


@pytest.mark.tensorflow
def test_tensorflow_can_be_imported_afterwards() -> None:
    run(STAND_IN + THEN_TENSORFLOW)


def test_a_machine_without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(TensorFlowMissingError, match="The Python package tensorflow is not installed") as caught:
        protos.tensorflow_folder()
    assert (caught.value.code, caught.value.exit_status) == ("server.tensorflow-missing", 4)
    assert caught.value.hint is not None
    assert "sealserve[server]" in caught.value.hint
