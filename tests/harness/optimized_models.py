"""Models for the tests of the optimization, and the optimization in the test's own process, which is faster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sealserve.model.optimization import optimize, worker
from sealserve.model.optimization.order import Order
from sealserve.model.tensorflow_import import import_tensorflow

Array = npt.NDArray[Any]


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `optimize` call the worker as a function."""

    def answer(order: Order, _timeout: float, tell: Callable[[str], None]) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        worker.carry_out(order, lambda **message: messages.append(message))
        for message in messages[:-1]:
            tell(message["step"])
        return messages[-1]

    monkeypatch.setattr(optimize, "_answer", answer)


def random(*shape: int, seed: int = 0) -> Array:
    """Return normal random numbers in float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(folder: Path, signatures: dict[str, tuple[Callable[..., Any], list[Any]]], **objects: Any) -> Path:
    """Save functions as signatures of a SavedModel.

    Args:
        folder: The SavedModel.
        signatures: Function and input specifications, by name.
        objects: Variables and tables that the functions use.
    """
    tf = import_tensorflow()
    module = tf.Module()
    for name, tracked in objects.items():
        setattr(module, name, tracked)
    functions = {
        name: tf.function(call, input_signature=specs, autograph=False) for name, (call, specs) in signatures.items()
    }
    tf.saved_model.save(module, str(folder), signatures=functions)
    return folder


def convolution_model(folder: Path) -> Path:
    """Save a convolution, a batch normalization as one operation, and a classifier with two signatures."""
    tf = import_tensorflow()
    filters, dense = tf.Variable(random(3, 3, 4, 16) / 6), tf.Variable(random(16, 10, seed=1))
    norm = [tf.Variable(np.abs(random(16, seed=seed)) + 0.5) for seed in range(4)]

    def features(x: Any) -> Any:
        scale, offset, mean, variance = norm
        convolved = tf.nn.conv2d(x, filters, 1, "SAME")
        normalized, *_ = tf.raw_ops.FusedBatchNormV3(
            x=convolved, scale=scale, offset=offset, mean=mean, variance=variance, is_training=False
        )
        return tf.reduce_mean(tf.nn.relu(normalized), [1, 2])

    def classify(x: Any) -> Any:
        logits = tf.matmul(features(x), dense)
        return {"scores": tf.nn.softmax(logits), "class": tf.argmax(logits, -1)}

    spec = [tf.TensorSpec([None, 8, 8, 4], tf.float32, name="x")]
    return save(
        folder,
        {"serving_default": (classify, spec), "features": (lambda x: {"features": features(x)}, spec)},
        filters=filters, dense=dense, norm=norm,
    )  # fmt: skip
