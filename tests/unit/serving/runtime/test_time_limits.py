"""A thread that runs a model returns at the deadline, regardless of the model, even with one TensorFlow thread."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.libtensorflow import TensorFlowError, library
from sealserve.serving.runtime.protos import DataType, TensorProto
from sealserve.serving.runtime.session import Session
from sealserve.serving.runtime.signature import Obstacle, Signature
from sealserve.serving.runtime.tensors import Tensor

pytestmark = pytest.mark.tensorflow

FOREVER = 2**31 - 1
LANES = 4
ENDLESS = ("loop", "function", "dequeue", "map")
UNSTOPPABLE = ("unstage", "in_function")


def save(folder: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        n = v1.placeholder(tf.int32, [], "n")

        @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def count(limit: Any) -> Any:
            return tf.while_loop(lambda i: i < limit, lambda i: [i + 1], [tf.constant(0)])[0]

        @tf.function  # type: ignore[untyped-decorator]
        def unstage(number: Any) -> Any:
            return number + tf.raw_ops.Unstage(dtypes=[tf.int32], shared_name="area")[0]

        variable = v1.Variable(40, name="variable", use_resource=False)
        outputs = {
            "loop": tf.while_loop(lambda i: i < n, lambda i: [i + 1], [tf.constant(0)])[0],
            "function": count(n),
            "dequeue": tf.queue.FIFOQueue(3, [tf.int32], shapes=[[]]).dequeue() + n,
            "map": tf.reduce_sum(tf.map_fn(lambda i: i + count(n), tf.fill([3], n))),
            "unstage": tf.raw_ops.Unstage(dtypes=[tf.int32], shared_name="area")[0] + n,
            "in_function": unstage(n),
            "reference": v1.assign_add(variable, n),
            "sized": tf.reduce_sum(tf.reshape(tf.range(6), tf.stack([n, -1])) + tf.constant(1)),
            "fixed": tf.reshape(n + tf.constant([1, 2]), [2, 1]),
        }
        session.run(variable.initializer)
        info, make = v1.saved_model.build_tensor_info, v1.saved_model.build_signature_def
        signatures = {name: make({"n": info(n)}, {"y": info(output)}) for name, output in outputs.items()}
        signatures["reference"].outputs["y"].dtype = DataType.Value("DT_INT32_REF")
        signatures["missing"] = make({"n": info(n)}, {"y": info(n)})
        signatures["missing"].outputs["y"].name = "nothing:0"
        signatures["fed_shape"] = make({"n": info(n)}, {"y": info(outputs["fixed"])})
        builder = v1.saved_model.Builder(str(folder / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("endless")
    save(folder)
    session = Session.load(
        library(), folder / "1", tags=["serve"], intra_op_threads=1, inter_op_threads=1, concurrent_runs=LANES
    )
    yield session
    session.close()


def ask(model: Session, signature: str, n: int, *, timeout: float = 60.0) -> Any:
    definition = model.signatures[signature]
    tensor = Tensor.from_proto(library(), TensorProto(dtype=3, int_val=[n]).SerializeToString())
    feed = (model.endpoint(definition.inputs["n"].name), tensor)
    (answer,) = model.run([feed], [model.endpoint(definition.outputs["y"].name)], timeout=timeout)
    proto = TensorProto()
    answer.fill(proto)
    return list(proto.int_val)


def status_of(model: Session, signature: str, n: int, *, timeout: float) -> Status:
    with pytest.raises(TensorFlowError) as caught:
        ask(model, signature, n, timeout=timeout)
    return caught.value.status


@pytest.mark.parametrize("signature", ENDLESS)
def test_every_lane_comes_back_at_the_deadline(model: Session, signature: str) -> None:
    for _ in range(3):
        if signature != "dequeue":
            ask(model, signature, 2)  # earlier fast runs do not mean that the next run is fast
    found: list[Status] = []
    lanes = [
        threading.Thread(target=lambda: found.append(status_of(model, signature, FOREVER, timeout=0.3)))
        for _ in range(LANES)
    ]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join(60)
    assert found == [Status.DEADLINE_EXCEEDED] * LANES
    assert ask(model, "fixed", 1) == [2, 3]


def test_a_run_does_not_wait_for_another_one_to_give_up(model: Session) -> None:
    ended: list[str] = []

    def run(name: str, timeout: float) -> None:
        assert status_of(model, "loop", FOREVER, timeout=timeout) is Status.DEADLINE_EXCEEDED
        ended.append(name)

    long = [threading.Thread(target=run, args=("long", 5.0)) for _ in range(LANES - 1)]
    for thread in long:
        thread.start()
    run("short", 0.2)
    for thread in long:
        thread.join(60)
    assert ended == ["short", *["long"] * (LANES - 1)]


@pytest.mark.parametrize("signature", UNSTOPPABLE)
def test_what_cannot_be_stopped_is_never_run(model: Session, signature: str) -> None:
    bound = Signature.bind(signature, model.signatures[signature], model)
    assert bound == Obstacle("its operation Unstage cannot be stopped at a deadline")


def test_a_signature_whose_tensor_is_missing_says_so(model: Session) -> None:
    assert Signature.bind("missing", model.signatures["missing"], model) == Obstacle(
        "its output 'y' is the tensor 'nothing:0', which the graph does not have"
    )


def test_a_reference_to_a_variable_is_the_variables_value(model: Session) -> None:
    bound = Signature.bind("reference", model.signatures["reference"], model)
    assert isinstance(bound, Signature)
    first = ask(model, "reference", 1)
    assert ask(model, "reference", 2) == [first[0] + 2]


def test_only_a_time_that_shapes_determine_is_trusted(model: Session) -> None:
    ends = {
        name: model.endpoint(definition.outputs["y"].name)
        for name, definition in model.signatures.items()
        if name != "missing"
    }
    trusted = {name for name, end in ends.items() if model._key([], ((end.operation, end.index),)) is not None}
    assert trusted == {"fixed", "fed_shape"}
