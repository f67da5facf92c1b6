import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sealserve.model.convert import import_model
from sealserve.model.resnet50 import RESNET50, Architecture, build_frozen_graph, build_model
from sealserve.model.tensorflow_import import import_tensorflow

pytestmark = pytest.mark.tensorflow

TINY = Architecture(blocks=(2, 1, 1, 1), width=8, side=64, classes=20)


@pytest.fixture(scope="module")
def tf() -> Any:
    return import_tensorflow()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet") / "tiny.pb"
    build_frozen_graph(path, seed=3, architecture=TINY)
    return path


def _graph(tf: Any, path: Path) -> Any:
    return tf.compat.v1.GraphDef.FromString(path.read_bytes())


def test_the_full_network_is_resnet50_version_1_5(tf: Any) -> None:
    model = build_model(RESNET50)
    assert model.count_params() == 25_610_152
    assert sum(tf.size(weight).numpy() for weight in model.trainable_weights) == 25_557_032
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    strides = {
        layer.name: (layer.kernel_size, layer.strides)
        for layer in model.layers
        if layer.name.endswith("_conv") and layer.strides != (1, 1)
    }
    assert strides == {
        "conv1_conv": ((7, 7), (2, 2)),
        **{f"conv{stage}_block1_0_conv": ((1, 1), (2, 2)) for stage in (3, 4, 5)},
        **{f"conv{stage}_block1_2_conv": ((3, 3), (2, 2)) for stage in (3, 4, 5)},
    }


def test_the_graph_is_frozen_and_has_nothing_that_is_not_needed(tf: Any, tiny: Path) -> None:
    graph = _graph(tf, tiny)
    operations = {node.name: node.op for node in graph.node}
    assert operations["input"] == "Placeholder"
    assert operations["predict"] == "Identity"
    assert not {"VarHandleOp", "ReadVariableOp", "NoOp"} & set(operations.values())
    assert not graph.library.function
    (picture,) = (node for node in graph.node if node.op == "Placeholder")
    assert [dimension.size for dimension in picture.attr["shape"].shape.dim] == [-1, 64, 64, 3]


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tiny: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    build_frozen_graph(tmp_path / "again.pb", seed=3, architecture=TINY, progress=steps.append)
    assert (tmp_path / "again.pb").read_bytes() == tiny.read_bytes()
    build_frozen_graph(tmp_path / "other.pb", seed=4, architecture=TINY)
    assert (tmp_path / "other.pb").read_bytes() != tiny.read_bytes()
    assert any("weights from seed 3" in step for step in steps)


def test_different_pictures_have_clearly_different_answers_in_any_range(tf: Any, tiny: Path, tmp_path: Path) -> None:
    model = import_model(tiny, tmp_path / "models", name="tiny", version=1, inputs=["input"], outputs=["predict"])
    served = tf.saved_model.load(str(model.folder)).signatures["serving_default"]
    random = np.random.default_rng(1)
    pictures = random.random((8, 64, 64, 3), dtype=np.float32)
    for batch in (pictures, pictures * 255, pictures * 255 - 120):
        answers = served(tf.constant(batch))["predict"].numpy()
        np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)
        alone = np.concatenate([served(tf.constant(picture[np.newaxis]))["predict"].numpy() for picture in batch])
        noise = np.abs(answers - alone).max()
        differences = [np.abs(one - other).max() for one, other in itertools.combinations(answers, 2)]
        assert min(differences) > 0.001
        assert noise < 0.01 * min(differences)
