from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises

from sealserve.model import lifting
from sealserve.model.codes import ModelCode
from sealserve.model.convert import import_model
from sealserve.model.lifting import check_written, lift
from sealserve.model.resnet50 import Architecture, build_frozen_graph
from sealserve.model.tensorflow_import import import_tensorflow

pytestmark = pytest.mark.tensorflow

TINY = Architecture(blocks=(1, 1), width=32, side=32, classes=5)


@pytest.fixture(scope="module")
def tf() -> Any:
    return import_tensorflow()


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frozen") / "tiny.pb"
    build_frozen_graph(path, architecture=TINY)
    return path


def converted(frozen: Path, folder: Path, *, keep_frozen: bool) -> Path:
    return import_model(
        frozen, folder, name="m", version=1, inputs=["input"], outputs=["predict"], keep_frozen=keep_frozen
    ).folder


def nodes(folder: Path) -> dict[str, Any]:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: PLC0415  # TensorFlow is optional

    content = (folder / "saved_model.pb").read_bytes()
    return {node.name: node for node in SavedModel.FromString(content).meta_graphs[0].graph_def.node}


def answer(tf: Any, folder: Path, pictures: Any, *, optimised: bool) -> Any:
    """Return the answer, with or without TensorFlow's graph optimizer."""
    config = tf.compat.v1.ConfigProto()
    if not optimised:
        config.graph_options.optimizer_options.opt_level = -1  # OptimizerOptions.L0: no constant is folded
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph, config=config) as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        return session.run("predict:0", {"input:0": pictures})


def test_large_constants_become_variables_and_the_answers_stay(tf: Any, frozen: Path, tmp_path: Path) -> None:
    lifted = converted(frozen, tmp_path / "lifted", keep_frozen=False)
    kept = converted(frozen, tmp_path / "kept", keep_frozen=True)
    assert not (kept / "variables" / "variables.index").exists()
    assert (lifted / "variables" / "variables.index").exists()
    assert (lifted / "saved_model.pb").stat().st_size < (kept / "saved_model.pb").stat().st_size / 2
    large = {name for name, node in nodes(kept).items() if node.op == "Const" and node.ByteSize() >= lifting.LARGE}
    assert large
    found = nodes(lifted)
    assert {name for name in large if found[name].op == "VarHandleOp"} == large
    pictures = np.random.default_rng(5).random((3, 32, 32, 3), np.float32)
    plain = [answer(tf, folder, pictures, optimised=False) for folder in (lifted, kept)]
    np.testing.assert_array_equal(plain[0], plain[1])
    optimised = [answer(tf, folder, pictures, optimised=True) for folder in (lifted, kept)]
    np.testing.assert_allclose(optimised[0], optimised[1], rtol=1e-4)


def test_small_constants_strings_and_what_is_named_stay(tf: Any) -> None:
    with tf.Graph().as_default() as graph:
        tf.constant(np.ones(lifting.LARGE // 4 - 1, np.float32), name="small")
        tf.constant(np.ones(lifting.LARGE // 4, np.float32), name="large")
        tf.constant(np.ones(lifting.LARGE // 4, np.float32), name="named")
        tf.constant(["x" * lifting.LARGE], name="text")
    lifted = lift(graph.as_graph_def(), keep={"named"})
    assert set(lifted.values) == {"large"}
    assert {node.name for node in lifted.graph_def.node} == {"small", "named", "text"}


def test_who_waits_for_a_constant_waits_no_more(tf: Any, tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        weights = tf.constant(np.arange(lifting.LARGE // 4, dtype=np.float32), name="weights")
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        with tf.control_dependencies([weights]):
            tf.identity(x + tf.reduce_sum(weights), name="y")
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    model = import_model(path, tmp_path / "models", name="m", version=1, inputs=["x"], outputs=["y"])
    served = tf.saved_model.load(str(model.folder)).signatures["serving_default"]
    total = np.arange(lifting.LARGE // 4, dtype=np.float32).sum(dtype=np.float64)
    np.testing.assert_allclose(served(x=tf.constant([1.0]))["y"].numpy(), [1.0 + total], rtol=1e-5)


def test_a_value_that_was_not_written_as_it_was_is_noticed(tf: Any, frozen: Path, tmp_path: Path) -> None:
    folder = converted(frozen, tmp_path / "models", keep_frozen=False)
    lifted = lift(tf.compat.v1.GraphDef.FromString(frozen.read_bytes()), keep={"input", "predict"})
    check_written(lifted, folder)
    name = next(iter(lifted.values))
    changed = lifted.values[name].copy()
    changed.flat[0] = -changed.flat[0] - 1
    with raises(ModelCode.LIFTING, match=r"was written with a different value") as caught:
        check_written(lifting.Lifted(graph_def=lifted.graph_def, values={name: changed}), folder)
    assert caught.value.code == "model.lifting"
