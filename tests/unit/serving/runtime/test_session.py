from collections.abc import Iterator
from pathlib import Path

import pytest

from sealserve.serving.runtime.libtensorflow import TensorFlowError, library
from sealserve.serving.runtime.protos import ConfigProto, MetaGraphDef, RunOptions, TensorProto
from sealserve.serving.runtime.session import Session
from sealserve.serving.runtime.tensors import Tensor

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def inline(models: Path) -> Iterator[Session]:
    loaded = load(models, inter_op_threads=1)
    yield loaded
    loaded.close()


def load(models: Path, *, inter_op_threads: int) -> Session:
    folder = models / "several" / "3"
    return Session.load(library(), folder, tags=["serve"], intra_op_threads=1, inter_op_threads=inter_op_threads)


def run_once(session: Session) -> None:
    signature = session.signatures["serving_default"]
    x, y = (session.endpoint(info.name) for info in (signature.inputs["x"], signature.outputs["y"]))
    proto = TensorProto(dtype=1, float_val=[2.0])
    proto.tensor_shape.dim.add(size=1)
    (answer,) = session.run([(x, Tensor.from_proto(library(), proto.SerializeToString()))], [y])
    assert answer.floats() == [3.0]


def options(session: Session, timeout: float | None) -> RunOptions:
    return RunOptions.FromString(session._options(timeout))


def test_with_one_thread_a_run_computes_on_the_thread_that_calls(inline: Session) -> None:
    assert options(inline, None) == RunOptions(inter_op_thread_pool=-1)


def test_a_timeout_is_watched_unless_it_is_ample(inline: Session) -> None:
    assert options(inline, 1000.0) == RunOptions(timeout_in_ms=1_000_000)  # nothing ran yet
    run_once(inline)
    assert inline._longest is not None
    assert options(inline, 11 * inline._longest) == RunOptions(inter_op_thread_pool=-1)
    assert options(inline, 9 * inline._longest) == RunOptions(timeout_in_ms=max(1, int(9000 * inline._longest)))


def test_with_more_threads_tensorflow_has_its_pool_and_watches_every_timeout(models: Path) -> None:
    session = load(models, inter_op_threads=2)
    run_once(session)
    assert options(session, None) == RunOptions()
    assert options(session, 1000.0) == RunOptions(timeout_in_ms=1_000_000)
    session.close()


@pytest.mark.parametrize("soft", [False, True])
def test_what_is_placed_on_a_gpu_is_computed_here_with_soft_placement_only(tmp_path: Path, *, soft: bool) -> None:
    meta_graph = MetaGraphDef()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1900
    for name, operation, inputs in (("x", "Placeholder", ()), ("y", "Neg", ("x",))):
        node = graph.node.add(name=name, op=operation, input=inputs, device="/device:GPU:0")
        node.attr["T" if inputs else "dtype"].type = 1
    encoded = meta_graph.SerializeToString()
    length = bytes([len(encoded) & 127 | 128, len(encoded) >> 7])
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12" + length + encoded)  # SavedModel: version, meta_graphs
    config = ConfigProto(allow_soft_placement=soft)
    if not soft:
        with pytest.raises(TensorFlowError) as caught:
            Session.load(library(), tmp_path, tags=["serve"], intra_op_threads=1, inter_op_threads=1, config=config)
        assert "Cannot assign a device for operation" in caught.value.text
        return
    loaded = Session.load(library(), tmp_path, tags=["serve"], intra_op_threads=1, inter_op_threads=1, config=config)
    tensor = Tensor.from_proto(library(), TensorProto(dtype=1, float_val=[1.5]).SerializeToString())
    (answer,) = loaded.run([(loaded.endpoint("x:0"), tensor)], [loaded.endpoint("y:0")])
    assert answer.floats() == [-1.5]
    loaded.close()
