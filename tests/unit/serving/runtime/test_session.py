import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealserve.serving.runtime import freed_memory
from sealserve.serving.runtime import session as module
from sealserve.serving.runtime.freed_memory import return_freed_memory
from sealserve.serving.runtime.libtensorflow import Buffer, TensorFlowError, library
from sealserve.serving.runtime.protos import ConfigProto, MetaGraphDef, RunOptions, TensorProto
from sealserve.serving.runtime.session import Session
from sealserve.serving.runtime.tensors import Tensor

pytestmark = pytest.mark.tensorflow

INLINE = RunOptions(inter_op_thread_pool=-1)


@pytest.fixture
def inline(models: Path) -> Iterator[Session]:
    loaded = load(models, inter_op_threads=1)
    yield loaded
    loaded.close()


def load(models: Path, *, inter_op_threads: int, time_limit: float = 300.0) -> Session:
    folder = models / "several" / "3"
    return Session.load(
        *(library(), folder),
        tags=["serve"],
        intra_op_threads=1,
        inter_op_threads=inter_op_threads,
        time_limit=time_limit,
    )


class Runs:
    """The options of each run of a session."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.session = session
        self._seen: list[RunOptions] = []
        run = session.library.TF_SessionRun

        def noted(handle: object, options: Buffer, *arguments: object) -> None:
            content = ctypes.string_at(options.data, options.length) if options.length else b""
            self._seen.append(RunOptions.FromString(content))
            run(handle, options, *arguments)

        monkeypatch.setattr(session.library, "TF_SessionRun", noted)

    def options(self, values: list[float], *, timeout: float | None, signature: str = "serving_default") -> RunOptions:
        """Run a signature of one input, and return the options of the run."""
        definition = self.session.signatures[signature]
        ((alias, given),), (wanted, *_) = definition.inputs.items(), definition.outputs.values()
        proto = TensorProto(dtype=given.dtype, float_val=values)
        if alias != "x":
            proto = TensorProto(dtype=given.dtype, string_val=[str(value).encode() for value in values])
        proto.tensor_shape.dim.add(size=len(values))
        feed = (self.session.endpoint(given.name), Tensor.from_proto(library(), proto.SerializeToString()))
        (answer,) = self.session.run([feed], [self.session.endpoint(wanted.name)], timeout=timeout)
        assert answer.shape == (len(values),)
        return self._seen[-1]


def timed(seconds: float) -> RunOptions:
    return RunOptions(timeout_in_ms=int(seconds * 1000))


def test_a_run_is_watched_until_one_of_the_same_shapes_was_quick(
    inline: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(inline, monkeypatch)
    assert runs.options([1.0], timeout=60.0) == timed(60)
    assert runs.options([2.0], timeout=60.0) == INLINE
    assert runs.options([2.0], timeout=None) == INLINE
    assert runs.options([1.0, 2.0], timeout=60.0) == timed(60)  # another shape
    for key in inline._took:
        inline._took[key] = 7.0
    assert runs.options([1.0], timeout=60.0) == timed(60)  # less than ten times as long
    assert runs.options([1.0], timeout=60.0) == INLINE  # only the last run counts


def test_a_run_whose_time_values_can_decide_is_always_watched(inline: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(inline, monkeypatch)
    for _ in range(3):
        assert runs.options([1.0], timeout=60.0, signature="number") == timed(60)
        assert runs.options([1.0], timeout=None, signature="number") == timed(300)


def test_what_is_remembered_is_bounded(inline: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    runs = Runs(inline, monkeypatch)
    for size in range(1, 8):
        assert runs.options([1.0] * size, timeout=60.0) == timed(60)
        assert len(inline._took) <= 2


def test_memory_is_returned_after_the_first_run_of_an_output(inline: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[None] = []
    monkeypatch.setattr(module, "return_freed_memory", lambda: returned.append(None))
    runs = Runs(inline, monkeypatch)
    for expected, size, signature in ((1, 1, "serving_default"), (1, 2, "serving_default"), (2, 1, "number")):
        runs.options([1.0] * size, timeout=60.0, signature=signature)
        assert len(returned) == expected
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    for _ in range(3):
        runs.options([1.0], timeout=60.0)
        assert len(inline._prepared) <= 2


def test_another_c_library_has_no_such_function(monkeypatch: pytest.MonkeyPatch) -> None:
    freed_memory._malloc_trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    return_freed_memory()
    freed_memory._malloc_trim.cache_clear()


def test_no_run_has_more_time_than_the_limit(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for threads in (1, 2):
        session = load(models, inter_op_threads=threads, time_limit=7.0)
        runs = Runs(session, monkeypatch)
        assert runs.options([1.0], timeout=None) == timed(7)
        assert runs.options([1.0, 2.0], timeout=1000.0) == timed(7)
        assert runs.options([1.0, 2.0, 3.0], timeout=2.0) == timed(2)
        session.close()


def test_with_more_threads_tensorflow_has_its_pool_and_watches_every_run(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(models, inter_op_threads=2)
    runs = Runs(session, monkeypatch)
    for _ in range(3):
        assert runs.options([1.0], timeout=60.0) == timed(60)
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


def test_a_name_without_an_index_is_the_first_output(inline: Session) -> None:
    name = inline.signatures["serving_default"].inputs["x"].name
    whole, short = inline.endpoint(name), inline.endpoint(name.partition(":")[0])
    assert (whole.operation, whole.index) == (short.operation, short.index)
    for wrong in (
        "",
        ":",
        ":0",
        "nothing",
        f"{name}:0",
        f"{name[:-1]}²",
        f"{name[:-1]}1",
        f"{name}{'9' * 5000}",
        f"^{name}",
    ):
        with pytest.raises(TensorFlowError, match="INVALID_ARGUMENT"):
            inline.endpoint(wrong)
