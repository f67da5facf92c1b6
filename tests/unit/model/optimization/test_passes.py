"""The passes on graphs that real models contain, and on graphs that they must not change."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.harness.optimized_models import random

from sealserve.model.optimization.passes import Interface, count_in_bfloat16, optimized
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.terms import Precision

pytestmark = pytest.mark.tensorflow

Build = Callable[[Any, Any], Any]


def norm(tf: Any, x: Any, channels: int, *, layout: str = "NHWC", training: bool = False, kind: str = "V3") -> Any:
    scale, variance = (np.abs(random(channels, seed=seed)) + 0.5 for seed in (7, 8))
    offset, mean = (random(channels, seed=seed) for seed in (9, 10))
    if training:
        mean, variance = np.zeros(0, np.float32), np.zeros(0, np.float32)
    operation = getattr(tf.raw_ops, f"FusedBatchNorm{kind}")
    return operation(x=x, scale=scale, offset=offset, mean=mean, variance=variance, is_training=training,
                     data_format=layout)[0]  # fmt: skip


def normal_convolution(tf: Any, x: Any) -> Any:
    return tf.nn.relu(norm(tf, tf.nn.conv2d(x, random(3, 3, 4, 8), 1, "SAME"), 8))


def older_norm(tf: Any, x: Any) -> Any:
    return norm(tf, tf.nn.conv2d(x, random(3, 3, 4, 8), 1, "SAME"), 8, kind="V2")


def channels_first(tf: Any, x: Any) -> Any:
    transposed = tf.transpose(x, [0, 3, 1, 2])
    convolved = tf.nn.conv2d(transposed, random(1, 1, 4, 8), 1, "SAME", data_format="NCHW")
    return tf.transpose(norm(tf, convolved, 8, layout="NCHW"), [0, 2, 3, 1])


def depthwise(tf: Any, x: Any) -> Any:
    return norm(tf, tf.nn.depthwise_conv2d(x, random(3, 3, 4, 2), [1, 1, 1, 1], "SAME"), 8)


def grouped(tf: Any, x: Any) -> Any:
    return norm(tf, tf.nn.conv2d(x, random(3, 3, 2, 8), 1, "SAME"), 8)  # two groups: 2 of 4 channels each


def transposed(tf: Any, x: Any) -> Any:
    return norm(tf, tf.nn.conv2d_transpose(x, random(3, 3, 8, 4), [2, 12, 12, 8], 2, "SAME"), 8)


def second_consumer(tf: Any, x: Any) -> Any:
    convolved = tf.nn.conv2d(x, random(3, 3, 4, 8), 1, "SAME")
    return norm(tf, convolved, 8) + convolved


def shared_filters(tf: Any, x: Any) -> Any:
    filters = tf.constant(random(3, 3, 4, 4), name="shared")
    return norm(tf, tf.nn.conv2d(norm(tf, tf.nn.conv2d(x, filters, 1, "SAME"), 4), filters, 1, "SAME"), 4)


def dense(tf: Any, x: Any) -> Any:
    product = tf.matmul(tf.reduce_mean(x, [1, 2]), random(4, 8))
    return tf.nn.batch_normalization(product, random(8), np.abs(random(8)) + 1, random(8, seed=2), random(8), 1e-3)


def residual(tf: Any, x: Any) -> Any:
    left = tf.nn.conv2d(x, random(1, 1, 4, 8), 1, "SAME") + random(8)
    right = tf.nn.conv2d(x, random(1, 1, 4, 8, seed=3), 1, "SAME") + random(1, 1, 1, 8, seed=4)
    return tf.nn.relu(left + right)


def vector_from_left(tf: Any, x: Any) -> Any:
    return tf.raw_ops.AddV2(x=random(8), y=tf.nn.conv2d(x, random(1, 1, 4, 8), 1, "SAME"))


def picture_added(tf: Any, x: Any) -> Any:
    return tf.nn.conv2d(x, random(1, 1, 4, 8), 1, "SAME") + random(6, 6, 8)  # not a vector of the channels


def one_channel(tf: Any, x: Any) -> Any:
    return tf.nn.conv2d(x, random(3, 3, 4, 1), 1, "SAME") + random(8)  # the sum has more channels


def factor_of_width(tf: Any, x: Any) -> Any:
    return tf.nn.conv2d(x, random(3, 3, 4, 6), 1, "SAME") * random(6, 1)  # for each column, and not for each channel


def transposed_product(tf: Any, x: Any) -> Any:
    return tf.matmul(tf.reduce_mean(x, [1, 2]), random(8, 4), transpose_b=True) + random(8)


def loop(tf: Any, x: Any) -> Any:
    weights = random(4, 4) / 4
    _, result = tf.while_loop(
        lambda i, _: i < 3, lambda i, y: (i + 1, tf.nn.relu(tf.matmul(y, weights))), (0, tf.reduce_mean(x, [1, 2]))
    )
    return result


MODELS = (
    normal_convolution, older_norm, channels_first, depthwise, grouped, transposed, second_consumer, shared_filters,
    dense, residual, vector_from_left, picture_added, one_channel,
    factor_of_width, transposed_product, loop,
)  # fmt: skip


def build(function: Build, dtype: str = "float32") -> tuple[Any, Interface]:
    tf = import_tensorflow()
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(dtype, [2, 6, 6, 4], name="x")
        tf.identity(function(tf, x), name="y")
    return graph.as_graph_def(), Interface(fed=("x:0",), fetched=("y:0",), targets=())


def run(graph_def: Any, values: Any) -> Any:
    tf = import_tensorflow()
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def, name="")
        return session.run("y:0", {"x:0": values})


def operations(graph_def: Any) -> list[str]:
    return sorted({node.op for node in graph_def.node})


@pytest.mark.parametrize("function", MODELS, ids=lambda function: function.__name__)
def test_outputs_stay_equal_but_for_rounding(function: Build) -> None:
    original, interface = build(function)
    values = random(2, 6, 6, 4, seed=5)
    before = run(original, values)
    for precision, tolerance in ((Precision.FLOAT32, 1e-5), (Precision.BFLOAT16, 0.05)):
        result, _ = optimized(original, interface, precision)
        after = run(result, values)
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert np.abs(after - before).max() <= tolerance * np.abs(before).max(), precision
        assert not [name for name in operations(result) if name.startswith("_")], "private operations are not portable"
        assert bool(count_in_bfloat16(result)) is (precision is Precision.BFLOAT16)


@pytest.mark.parametrize("function", [normal_convolution, channels_first, depthwise], ids=lambda each: each.__name__)
def test_a_batch_normalization_disappears_in_the_filters(function: Build) -> None:
    original, interface = build(function)
    result, replaced = optimized(original, interface, Precision.FLOAT32)
    assert replaced == 1
    assert "Mul" not in operations(result)
    assert not [name for name in operations(result) if "BatchNorm" in name]


def test_a_convolution_with_a_second_reader_keeps_its_filters() -> None:
    original, interface = build(second_consumer)
    result, replaced = optimized(original, interface, Precision.FLOAT32)
    assert replaced == 1
    assert "Mul" in operations(result)


def test_statistics_of_the_request_are_not_folded() -> None:
    original, interface = build(
        lambda tf, x: norm(tf, tf.nn.conv2d(x, random(3, 3, 4, 8), 1, "SAME"), 8, training=True)
    )
    result, replaced = optimized(original, interface, Precision.FLOAT32)
    assert replaced == 0
    assert "FusedBatchNormV3" in operations(result)
    values = random(2, 6, 6, 4, seed=5)
    assert np.allclose(run(result, values), run(original, values), atol=1e-5)


def test_vectors_become_biases_and_pictures_do_not() -> None:
    for function, biases in (
        (residual, 2),
        (vector_from_left, 1),
        (picture_added, 0),
        (one_channel, 0),
        (transposed_product, 1),
    ):
        original, interface = build(function)
        result, _ = optimized(original, interface, Precision.FLOAT32)
        assert [node.op for node in result.node].count("BiasAdd") == biases, function.__name__


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_precisions_are_left_alone(dtype: str) -> None:
    def function(tf: Any, x: Any) -> Any:
        return tf.matmul(tf.reduce_mean(x, [1, 2]), tf.constant(random(4, 8).astype(dtype)))

    original, interface = build(function, dtype)
    result, _ = optimized(original, interface, Precision.BFLOAT16)
    assert count_in_bfloat16(result) == 0
    values = random(2, 6, 6, 4, seed=5).astype(dtype)
    assert np.array_equal(run(result, values), run(original, values))


def test_probabilities_are_computed_in_float32() -> None:
    original, interface = build(lambda tf, x: tf.nn.softmax(tf.matmul(tf.reduce_mean(x, [1, 2]), random(4, 8))))
    result, _ = optimized(original, interface, Precision.BFLOAT16)
    tf = import_tensorflow()
    types = {node.op: node.attr["T"].type for node in result.node if "T" in node.attr}
    assert types["Softmax"] == tf.float32.as_datatype_enum
    assert types["MatMul"] == tf.bfloat16.as_datatype_enum


def test_the_same_model_gives_the_same_bytes() -> None:
    original, interface = build(residual)
    made = {
        optimized(original, interface, Precision.BFLOAT16)[0].SerializeToString(deterministic=True) for _ in range(3)
    }
    assert len(made) == 1


def test_weights_need_half_the_bytes() -> None:
    weights = random(3, 3, 256, 4)
    original, interface = build(
        lambda tf, x: tf.nn.conv2d(tf.nn.conv2d(x, random(1, 1, 4, 256), 1, "SAME"), weights, 1, "SAME")
    )
    result, _ = optimized(original, interface, Precision.BFLOAT16)
    assert result.ByteSize() < 0.6 * original.ByteSize()
