"""No request ends the process: operations that abort are guarded, wherever a request's shapes and values reach them."""

import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow

Array = np.ndarray[Any, Any]
Requests = list[tuple[str, dict[str, Array]]]
STATUSES = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "ABORTED"}
"""ABORTED is oneDNN's refusal."""
ROOT = Path(__file__).parents[2]
SHAPES: tuple[tuple[int, ...], ...] = (
    *(
        (),
        (0,),
        (1,),
        (3,),
        (2, 2),
        (0, 4),
        (1, 8, 3),
        (2, 3, 4),
        (1, 0, 0),
        (1, 8, 8),
        (1, 8, 8, 3),
        (8, 8, 8, 3),
        (1, 1, 1, 3),
    ),
    *((1, 2, 2, 3), (1, 3, 3, 3), (2, 7, 1, 3), (1, 1, 7, 3), (0, 8, 8, 3), (1, 8, 8, 4), (1, 0, 8, 3), (1, 8, 8, 0)),
    *((1, 4, 8, 8, 3), (1, 1, 1, 1, 3), (1, 2, 8, 8, 3), (2, 0, 8, 8, 3), (1, 1, 8, 8, 3, 1), (1,) * 9, (1,) * 40),
)


def _one_input(tf: Any) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Return declared shapes, and operations on an input with these shapes."""
    nn, raw = tf.nn, tf.raw_ops
    rng = np.random.default_rng(0)

    def kernel(*shape: int) -> Any:
        return tf.constant(rng.normal(size=shape).astype(np.float32))

    hidden = tf.compat.v1.placeholder_with_default
    square, cube, bias = kernel(3, 3, 3, 2), kernel(2, 2, 2, 3, 2), kernel(2)

    def network(x: Any) -> Any:
        y = nn.relu(nn.bias_add(nn.conv2d(x, square, 1, "SAME"), bias))
        y = nn.max_pool2d(nn.conv2d(y, kernel(3, 3, 2, 4), 1, "VALID"), 2, 2, "VALID")
        return tf.reduce_mean(nn.relu(y), [1, 2]) @ kernel(4, 3)

    def transposed(x: Any) -> Any:
        shape = tf.shape(x)
        return nn.conv2d_transpose(x, kernel(3, 3, 2, 3), tf.stack([shape[0], shape[1] * 2, shape[2] * 2, 2]), 2)

    def looped(x: Any) -> Any:
        return tf.while_loop(
            lambda i, _: i < 2,
            lambda i, y: (i + 1, nn.max_pool2d(nn.conv2d(y, kernel(2, 2, 3, 3), 1, "SAME"), 2, 1, "VALID")),
            [0, x],
            shape_invariants=[tf.TensorShape([]), tf.TensorShape(None)],
        )[1]

    def chosen(x: Any) -> Any:
        return tf.cond(
            tf.size(x) > 30, lambda: nn.max_pool2d(x, 3, 1, "VALID"), lambda: nn.avg_pool2d(x, 1, 1, "VALID")
        )

    called = tf.function(lambda x: nn.max_pool2d(nn.conv2d(x, square, 1, "SAME"), 3, 2, "VALID"), autograph=False)
    mapped = tf.function(lambda x: tf.map_fn(lambda row: nn.max_pool1d(row[None], 2, 1, "VALID"), x), autograph=False)
    picture = [None, 8, 8, 3]
    return {
        "conv": (None, lambda x: nn.conv2d(x, square, 1, "SAME")),
        "conv_declared": (picture, lambda x: nn.conv2d(x, square, 1, "VALID")),
        "conv_one_row": ([1, 8, 8, 3], lambda x: nn.conv2d(x, square, 1, "SAME")),
        "conv_dilated": (None, lambda x: nn.conv2d(x, square, 1, "VALID", dilations=3)),
        "conv_fused": (picture, lambda x: nn.relu(nn.bias_add(nn.conv2d(x, square, 1, "SAME"), bias))),
        "conv_padded": (picture, lambda x: nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), square, 2, "VALID")),
        "conv_of_two": (picture, lambda x: nn.conv2d(tf.concat([x, x], 1), square, 1, "SAME")),
        "depthwise": (None, lambda x: nn.depthwise_conv2d(x, kernel(3, 3, 3, 1), [1, 1, 1, 1], "SAME")),
        "conv1d": ([None, None, 3], lambda x: nn.conv1d(x, kernel(3, 3, 2), 1, "VALID")),
        "conv3d": (None, lambda x: nn.conv3d(x, cube, [1] * 5, "SAME")),
        "transposed": (picture, transposed),
        "network": (picture, network),
        "max_valid": ([None, None, None, 3], lambda x: nn.max_pool2d(x, 3, 2, "VALID")),
        "max_static": ([1, 8, 8, 3], lambda x: nn.max_pool2d(x, 3, 1, "VALID")),
        "max_same": (None, lambda x: nn.max_pool2d(x, 3, 2, "SAME")),
        "max_explicit": (None, lambda x: nn.max_pool2d(x, 3, 1, [[0, 0], [1, 0], [0, 1], [0, 0]])),
        "max_1d": (None, lambda x: nn.max_pool1d(x, 3, 1, "VALID")),
        "max_3d": (None, lambda x: nn.max_pool3d(x, 2, 1, "VALID")),
        "average": (None, lambda x: nn.avg_pool2d(x, 3, 1, "VALID")),
        "average_3d": (None, lambda x: nn.avg_pool3d(x, 2, 1, "VALID")),
        "squeezed": (None, lambda x: nn.conv2d(tf.squeeze(x), square, 1, "SAME")),
        "expanded": (None, lambda x: nn.max_pool2d(tf.expand_dims(x, 0), 2, 1, "VALID")),
        "hidden_rank": (picture, lambda x: nn.conv2d(hidden(x, None), square, 1, "SAME")),
        "spectrum": (None, lambda x: tf.abs(tf.signal.rfft(x))),
        "spectrum_2d": (None, lambda x: tf.abs(tf.signal.rfft2d(x))),
        "per_channel": (None, lambda x: raw.FakeQuantWithMinMaxVarsPerChannel(inputs=x, min=[-1.0] * 3, max=[1.0] * 3)),
        "norm": (None, nn.local_response_normalization),
        "batch_norm": (picture, lambda x: raw.FusedBatchNormV3(
            x=x, scale=[1.0] * 3, offset=[0.0] * 3, mean=[0.0] * 3, variance=[1.0] * 3, is_training=False)[0]),
        "resized": (picture, lambda x: tf.compat.v1.image.resize_bilinear(x, [4, 4])),
        "loop": (None, looped),
        "branch": (None, chosen),
        "function": (None, called),
        "map": (None, mapped),
        "constant_conv": (
            [None, 1],
            lambda x: x * 0.5 + 2.0 + 0.0 * tf.reduce_max(nn.conv2d(kernel(1, 3, 3, 3), square, 1, "VALID")),
        ),
        "sum": ([1, 8, 8, 3], lambda x: tf.reduce_sum(x, 1)),
        "mean": (picture, lambda x: tf.reduce_mean(x, -1)),
        "concat": ([1], lambda x: tf.concat([x, x], 0)),
        "mixed": (picture, lambda x: tf.argmax(tf.where(tf.transpose(tf.stack([x, x])) > 0, 1, 0)[:, :1], 0, tf.int32)),
        "gathered": (picture, lambda x: tf.gather(tf.reshape(x, [-1]), [0, 1])),
    }  # fmt: skip


def _two_inputs(tf: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """Return what is computed from an input of floats and one of integers, without any declared shape."""
    square = tf.constant(np.ones([3, 3, 3, 2], np.float32))
    return {
        "reshaped": lambda x, s: tf.nn.conv2d(tf.reshape(x, s), square, 1, "SAME"),
        "pooled": lambda x, s: tf.nn.max_pool2d(tf.reshape(x, s), 2, 1, "VALID"),
        "sized": lambda x, s: tf.nn.conv2d_transpose(x, tf.ones([3, 3, 2, 3]), s, 2),
        "cut_spectrum": lambda x, s: tf.abs(tf.signal.rfft(x, s)),
        "scattered": lambda x, s: tf.scatter_nd(s, x, [5]),
        "updated": lambda x, s: tf.tensor_scatter_nd_update(tf.zeros([5, 2]), s, x),
        "gathered_rows": lambda x, s: tf.gather(x, s, batch_dims=0),
        "cut": lambda x, s: tf.strided_slice(x, s, s + 1),
    }


def _within(tf: Any) -> dict[str, tuple[dict[str, Any], Any]]:
    """Return inputs and outputs where inputs replace what operations compute, or reach others through their state."""
    v1, nn, raw = tf.compat.v1, tf.nn, tf.raw_ops
    square = tf.constant(np.ones([3, 3, 3, 3], np.float32))
    picture, other = v1.placeholder(tf.float32, [None, 8, 8, 3]), v1.placeholder(tf.float32, None)
    reshaped = tf.reshape(v1.placeholder(tf.float32, [None, 192]), [-1, 8, 8, 3])
    constant = tf.constant(np.zeros([1, 8, 8, 3], np.float32))
    convolved = nn.conv2d(picture, square, 1, "SAME")
    rectified = nn.relu(convolved)
    split = tf.split(nn.conv2d(other, square, 1, "SAME"), 2, -2)
    waited = tf.identity(nn.conv2d(other, square, 1, "SAME"))
    with tf.control_dependencies([waited]):
        after = tf.identity(picture)
    found = {
        "of_reshape": ({"x": reshaped}, nn.conv2d(reshaped, square, 1, "SAME")),
        "of_constant": ({"x": constant}, nn.conv2d(constant, square, 1, "SAME")),
        "of_conv": ({"x": convolved}, nn.max_pool2d(convolved, 3, 1, "VALID")),
        "of_relu": ({"x": rectified}, nn.conv2d(rectified, square, 1, "SAME")),
        "of_half": ({"x": other, "half": split[1]}, split[0]),
        "of_awaited": ({"x": other, "waited": waited, "y": picture}, after),
    }
    for name, kind in (("resource", True), ("reference", False)):
        x = v1.placeholder(tf.float32, None)
        if kind:
            state = raw.VarHandleOp(dtype=tf.float32, shape=[1, 8, 8, 3], shared_name=name)
            written = raw.AssignVariableOp(resource=state, value=x)
        else:
            state = raw.VariableV2(dtype=tf.float32, shape=[1, 8, 8, 3], shared_name=name)
            written = raw.Assign(ref=state, value=x, validate_shape=False)
        with tf.control_dependencies([written]):
            held = raw.ReadVariableOp(resource=state, dtype=tf.float32) if kind else tf.identity(state)
        found[f"in_{name}"] = {"x": x}, nn.conv2d(held, square, 1, "SAME")
    rate, rate_two = v1.placeholder(tf.float32, None), v1.placeholder(tf.float32, None)
    found["rate"] = {"x": rate}, tf.cast(raw.RandomPoissonV2(shape=[2], rate=rate) * 0, tf.float32)
    found["rate_stateless"] = {"x": rate_two}, tf.cast(tf.random.stateless_poisson([1], [1, 2], rate_two), tf.float32)
    for name, kind in (("bins", tf.float32), ("bins_of_integers", tf.int32)):
        values, limits = v1.placeholder(kind, None), v1.placeholder(kind, None)
        counts = raw.HistogramFixedWidth(values=values, value_range=limits, nbins=5)
        found[name] = {"values": values, "limits": limits}, counts
    queue, x = v1.FIFOQueue(3, [tf.float32]), v1.placeholder(tf.float32, None)
    with tf.control_dependencies([queue.enqueue([x])]):
        found["in_queue"] = {"x": x}, nn.conv2d(queue.dequeue(), square, 1, "SAME")
    return found


def _build(folder: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = {}
        for name, (shape, compute) in _one_input(tf).items():
            x = v1.placeholder(tf.float32, shape)
            signatures[name] = v1.saved_model.predict_signature_def({"x": x}, {"y": tf.identity(compute(x))})
        for name, compute_two in _two_inputs(tf).items():
            x, s = v1.placeholder(tf.float32, None), v1.placeholder(tf.int32, None)
            signatures[name] = v1.saved_model.predict_signature_def({"x": x, "s": s}, {"y": compute_two(x, s)})
        for name, (given, computed) in _within(tf).items():
            signatures[name] = v1.saved_model.predict_signature_def(given, {"y": computed})
        builder = v1.saved_model.Builder(str(folder / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


def _requests() -> Requests:
    import tensorflow as tf  # noqa: PLC0415

    rng = np.random.default_rng(1)
    found: Requests = []
    for name, shape in product(_one_input(tf), SHAPES):
        found.append((name, {"x": rng.normal(size=shape).astype(np.float32)}))
    with tf.Graph().as_default():
        within = {name: list(given) for name, (given, _) in _within(tf).items()}
    for (name, aliases), shape in product(within.items(), SHAPES):
        kind = np.int32 if name == "bins_of_integers" else np.float32
        found.append((name, {alias: rng.normal(size=shape).astype(kind) for alias in aliases}))
    for name, value in product(("rate", "rate_stateless"), (1.0, np.nan, -np.inf, np.inf, 1e30)):
        found.append((name, {"x": np.array([value], np.float32)}))
    extremes = [0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 3e38, -3e38]
    for value, least, most in product(extremes, repeat=3):
        found.append(("bins", {"values": np.full(3, value, np.float32), "limits": np.array([least, most], np.float32)}))
    for value, least, most in product([0, 1, -1, 2**31 - 1, -(2**31)], repeat=3):
        limits = np.array([least, most], np.int32)
        found.append(("bins_of_integers", {"values": np.full(3, value, np.int32), "limits": limits}))
    numbers: tuple[Any, ...] = (
        [],
        [0],
        [1],
        [3],
        [-1],
        [27],
        [1, 3, 3, 3],
        [1, 1, 1, 27],
        [3, 9],
        [0, 0],
        [-1, -1],
        [1, 6, 6, 2],
    )
    numbers += ([2**31 - 1] * 4, [1, 3, 3, -3], [[0], [1]], [[0, 1]], [[[1]]], 0)
    shapes = ((), (0,), (1,), (2,), (3,), (27,), (3, 9), (2, 2), (1, 3, 3, 3), (1, 2, 2), (0, 2), (2, 0))
    for name, shape, values in product(_two_inputs(tf), shapes, numbers):
        found.append((name, {"x": rng.normal(size=shape).astype(np.float32), "s": np.array(values, np.int32)}))
    return found


def _answers(path: Path) -> Iterator[Any]:
    with path.open("rb") as lines:
        while True:
            try:
                yield pickle.load(lines)  # noqa: S301  # our own child has written it
            except EOFError:
                return


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("hostile")
    _build(found)
    return found


@pytest.fixture(scope="module", params=["1", "0"], ids=["onednn", "eigen"])
def answered(folder: Path, request: pytest.FixtureRequest) -> list[tuple[str, dict[str, Array], Any]]:
    """Ask a child process everything; return signature, inputs and answer of each request."""
    requests, answers = folder / "requests", folder / f"answers-{request.param}"
    asked = _requests()
    requests.write_bytes(pickle.dumps(asked))
    child = subprocess.run(
        [sys.executable, "-m", "tests.integration.hostile_requests", folder, requests, answers],
        cwd=ROOT,
        env={"PATH": "", "TF_ENABLE_ONEDNN_OPTS": request.param, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        timeout=500,
    )
    got = list(_answers(answers)) if answers.exists() else []
    assert child.returncode == 0, f"it ended at {got[-1:]}: {child.returncode}, {child.stderr[-2000:]!r}"
    return [(signature, inputs, answer) for (signature, inputs), answer in zip(asked, got[1::2], strict=True)]


def test_each_answer_is_right_or_says_what_is_wrong(
    folder: Path, answered: list[tuple[str, dict[str, Array], Any]]
) -> None:
    import tensorflow as tf  # noqa: PLC0415
    from tensorflow.core.protobuf.config_pb2 import CallableOptions  # noqa: PLC0415

    v1 = tf.compat.v1
    right: dict[str, int] = {}
    runs: dict[str, Any] = {}
    with tf.Graph().as_default(), v1.Session() as session:
        loaded = v1.saved_model.load(session, ["serve"], str(folder / "1"))
        for signature, inputs, answer in answered:
            definition = loaded.signature_def[signature]
            if signature not in runs:
                # A callable has no check of declared shapes, which a session of Python has.
                feed = [definition.inputs[alias].name for alias in inputs]
                options = CallableOptions(feed=feed, fetch=[definition.outputs["y"].name])
                runs[signature] = session._make_callable_from_options(options)  # nothing public has none
                right[signature] = 0
            if isinstance(answer, str):
                assert answer.split(":")[0] in STATUSES, answer
                continue
            try:
                expected = runs[signature](*inputs.values())[0]
            except tf.errors.InvalidArgumentError:  # this process has oneDNN, which refuses some of what Eigen takes
                continue
            if answer["y"].size:  # the shape of nothing differs where TensorFlow has fused a Pad with a Conv2D
                np.testing.assert_allclose(answer["y"], expected, rtol=1e-3, atol=1e-3)
            right[signature] += 1
    assert not [signature for signature, count in right.items() if not count], "each has requests that it answers"


def test_what_is_refused_names_the_input_and_what_is_needed(
    answered: list[tuple[str, dict[str, Array], Any]],
) -> None:
    found = {(signature, *(array.shape for array in inputs.values())): answer for signature, inputs, answer in answered}
    assert re.fullmatch(
        r"INVALID_ARGUMENT: input 'x' has the shape \[1,1,1,3\]: the operation 'MaxPool2d[\w]*' requires a tensor of"
        r" at least \[\?,3,3,\?\], got the shape \[1,1,1,3\]",
        found["max_valid", (1, 1, 1, 3)],
    )
    assert re.fullmatch(
        r"INVALID_ARGUMENT: input 'x' has the shape \[3\]: the operation 'Conv2D[\w]*' requires a tensor with 4"
        r" dimensions, got the shape \[3\]",
        found["conv_declared", (3,)],
    )


def test_what_works_in_tensorflow_works_here(answered: list[tuple[str, dict[str, Array], Any]]) -> None:
    found = {(signature, *(array.shape for array in inputs.values())): answer for signature, inputs, answer in answered}
    for signature, shape, wanted in (
        ("conv_one_row", (8, 8, 8, 3), (8, 8, 8, 2)),
        ("max_static", (8, 8, 8, 3), (8, 6, 6, 3)),
        ("constant_conv", (3,), (3,)),
        ("sum", (2, 2), (2,)),
        ("mean", (2, 3, 4), (2, 3)),
        ("concat", (3,), (6,)),
        ("loop", (1, 8, 8, 3), (1, 6, 6, 3)),
        ("function", (1, 8, 8, 3), (1, 3, 3, 2)),
    ):
        assert not isinstance(found[signature, shape], str), (signature, found[signature, shape])
        assert found[signature, shape]["y"].shape == wanted, signature
