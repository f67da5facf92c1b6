import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.convert import SourceKind, import_model
from sealserve.model.lint import lint
from sealserve.model.saved_model import TensorSpec, describe, dtype_name
from sealserve.model.tensorflow_import import import_tensorflow

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def tf() -> Any:
    return import_tensorflow()


@pytest.fixture
def frozen(tf: Any, tmp_path: Path) -> Path:
    """A graph of two inputs and two outputs, frozen on a machine with a GPU."""
    with tf.Graph().as_default() as graph, tf.device("/GPU:0"):
        a = tf.compat.v1.placeholder(tf.float32, [None, 3], name="a")
        b = tf.compat.v1.placeholder(tf.int64, [], name="b")
        weights = tf.constant(np.random.default_rng(1).random((3, 2)), tf.float32)
        product = tf.matmul(a, weights)
        tf.identity(product, name="product")
        tf.identity(tf.nn.softmax(product * tf.cast(b, tf.float32)), name="predict")
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_a_frozen_graph_becomes_a_saved_model_with_equal_outputs(tf: Any, frozen: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    model = import_model(
        frozen, tmp_path / "models", name="tiny", version=1, inputs=["a", "b"], outputs=["product", "predict"],
        progress=steps.append,
    )  # fmt: skip
    assert model.source is SourceKind.FROZEN_GRAPH
    assert steps == ["reading the frozen graph", "writing the SavedModel"]
    (signature,) = model.info.serving_graph.signatures
    assert signature.name == "serving_default"
    assert signature.method == "tensorflow/serving/predict"
    assert signature.inputs == (
        TensorSpec(name="a", dtype="float32", shape=(None, 3)),
        TensorSpec(name="b", dtype="int64", shape=()),
    )
    assert [output.name for output in signature.outputs] == ["predict", "product"]
    feed = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int64(2)}
    anywhere = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph, config=anywhere) as session:
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(frozen.read_bytes()), name="")
        fetches = {"product": "product:0", "predict": "predict:0"}
        expected = session.run(fetches, {f"{name}:0": value for name, value in feed.items()})
    served = tf.saved_model.load(str(model.folder)).signatures["serving_default"]
    answers = served(**{name: tf.constant(value) for name, value in feed.items()})
    for name, value in expected.items():
        np.testing.assert_array_equal(answers[name].numpy(), value)


def test_the_saved_model_is_bound_to_no_device(tf: Any, frozen: Path, tmp_path: Path) -> None:
    model = import_model(frozen, tmp_path / "models", name="t", version=1, inputs=["a", "b"], outputs=["predict"])
    saved = tf.compat.v1.saved_model
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        saved.load(session, ["serve"], str(model.folder))
        assert {node.device for node in graph.as_graph_def().node} == {""}


def test_a_graph_that_tensorflow_does_not_load_is_refused(frozen: Path, tmp_path: Path) -> None:
    graph = pb.GraphDef.FromString(frozen.read_bytes())
    graph.node[0].op = "OperationOfOurOwn"
    frozen.write_bytes(graph.SerializeToString())
    with raises(ModelCode.REFUSED, match=r"cannot be loaded by TensorFlow .*OperationOfOurOwn") as caught:
        import_model(frozen, tmp_path / "models", name="t", version=1, inputs=["a"], outputs=["predict"])
    assert caught.value.code == "model.refused"
    assert not (tmp_path / "models").exists()


def test_a_saved_model_with_variables_is_described_and_copied(tf: Any, tmp_path: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable([1.0, 2.0])
    module.scale = tf.function(lambda x: {"y": x * module.weights}, input_signature=[tf.TensorSpec([None, 2])])
    tf.saved_model.save(module, str(tmp_path / "source"), signatures={"scale": module.scale})
    model = import_model(tmp_path / "source", tmp_path / "models", name="v", version=1)
    graph = model.info.serving_graph
    assert graph.has_variables
    assert [signature.name for signature in graph.signatures] == ["scale"]
    assert "StatefulPartitionedCall" in graph.operations
    assert "Mul" in graph.operations  # inside a function
    served = tf.saved_model.load(str(model.folder)).signatures["scale"]
    np.testing.assert_array_equal(served(tf.constant([[3.0, 4.0]]))["y"].numpy(), [[3.0, 8.0]])


def test_types_have_tensorflows_names(tf: Any) -> None:
    for name, number in pb.DataType.items():
        if name != "DT_INVALID":
            assert dtype_name(number) == tf.dtypes.as_dtype(number).name


def test_our_subset_agrees_with_tensorflows_messages(tmp_path: Path, tf: Any) -> None:
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415  # TensorFlow is optional

    module = tf.Module()
    module.call = tf.function(lambda x: x + 1.0, input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    tf.saved_model.save(module, str(tmp_path / "source"), signatures=module.call)
    content = (tmp_path / "source" / "saved_model.pb").read_bytes()
    official = saved_model_pb2.SavedModel.FromString(content)
    assert saved_model_pb2.SavedModel.FromString(pb.SavedModel.FromString(content).SerializeToString()) == official
    (graph,) = describe(tmp_path / "source").graphs
    assert graph.tensorflow_version == official.meta_graphs[0].meta_info_def.tensorflow_version == tf.__version__
    assert {node.op for node in official.meta_graphs[0].graph_def.node} <= set(graph.operations)


def test_a_saved_model_in_text_form_becomes_one_in_binary_form(tf: Any, tmp_path: Path) -> None:
    from google.protobuf import text_format  # noqa: PLC0415
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: PLC0415

    module = tf.Module()
    module.scale = tf.Variable(2.0)
    module.call = tf.function(lambda x: x * module.scale, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    source = tmp_path / "source"
    tf.saved_model.save(module, str(source), signatures=module.call)
    message = SavedModel.FromString((source / "saved_model.pb").read_bytes())
    (source / "saved_model.pb").unlink()
    (source / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    with raises(
        ModelCode.NOT_A_SAVED_MODEL,
        match=r"a SavedModel in text form: expected saved_model\.pb, got saved_model\.pbtxt",
    ):
        lint(source)
    model = import_model(source, tmp_path / "models", name="m", version=1)
    assert not (model.folder / "saved_model.pbtxt").exists()
    lint(model.folder)
    answer = tf.saved_model.load(str(model.folder)).signatures["serving_default"](x=tf.constant([1.5]))
    np.testing.assert_array_equal(next(iter(answer.values())).numpy(), [3.0])
    (source / "saved_model.pbtxt").write_text("meta_graphs { no }")
    with raises(ModelCode.NOT_A_SAVED_MODEL, match="is not a SavedModel in text form"):
        import_model(source, tmp_path / "models", name="m", version=2)
    assert not (tmp_path / "models" / "m" / "2").exists()


FULL = """
import resource, signal, sys
from pathlib import Path
from sealserve.errors import UnavailableError
from sealserve.model.convert import import_model
from sealserve.model.tensorflow_import import import_tensorflow

import_tensorflow()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    import_model(Path(sys.argv[1]), Path(sys.argv[2]), name="m", version=1, inputs=["x"], outputs=["y"])
except UnavailableError as error:
    print(error.message)
"""


@pytest.mark.parametrize("limit", [100, 20_000])  # the disk is full for the graph's file, or for the variables' file
def test_a_full_disk_is_one_clear_error_while_tensorflow_writes(limit: int, tf: Any, tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        tf.identity(x + tf.reduce_sum(tf.constant(np.random.default_rng(1).random(50_000), tf.float32)), name="y")
    (tmp_path / "large.pb").write_bytes(graph.as_graph_def().SerializeToString())
    arguments = [str(tmp_path / "large.pb"), str(tmp_path / "models"), str(limit)]
    done = subprocess.run([sys.executable, "-c", FULL, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"No room to write to {tmp_path / 'models' / 'm'}.\n"
    assert not (tmp_path / "models").exists()
