"""Weights from a seed, for a network whose answers for any two pictures differ clearly.

A pretrained file cannot be shipped. With ordinary random weights, all pictures get nearly the same answer. Each layer
passes on the average of its input, which pictures have in common, and deep layers pass on nothing else. Three measures
prevent this:

- Each filter's weights sum to zero, so that a uniform input gives no response.
- The first layer's channels come in pairs of one filter with two thresholds, and the next layer subtracts one channel
  from the other. The difference saturates. So pictures in 0..1 and in 0..255 stay within the same range, and no answer
  has its whole probability in one class.
- The last layer is scaled so that the logits' standard deviation is about 4.

All numbers are drawn as integers and summed exactly, so that a seed gives the same bytes on every machine.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_STEPS = 1000  # weights are multiples of 1 / _STEPS before they are scaled
_UNIFORM_STD = _STEPS / 3**0.5
_GAIN = 2.9  # 1 / variance of a rectified standard normal variable: a layer compensates what rectifying removes
_BRANCH_GAMMA = 0.5  # a residual branch adds less than the value that it is added to
_THRESHOLD = 1.0  # difference between the two channels of a pair in the first layer
_LOGITS = 1 / 3  # scale of the last layer's weights, measured with the full network

Array = npt.NDArray[np.float32]


def initialise(model: Any, *, seed: int) -> None:
    """Set all weights and batch-norm values of a ResNet (a Keras model of ``resnet50.build_model``) from ``seed``."""
    generator = np.random.Generator(np.random.PCG64(seed))
    for layer in model.layers:
        shapes = {variable.name: tuple(variable.shape) for variable in layer.weights}
        if "gamma" in shapes:
            layer.set_weights(_batch_norm(generator, shapes["gamma"], name=layer.name))
        elif "bias" in shapes:
            layer.set_weights(_classifier(generator, shapes["kernel"]))
        elif "kernel" in shapes:
            layer.set_weights([_filters(generator, shapes["kernel"], name=layer.name)])


def _filters(generator: np.random.Generator, shape: tuple[int, ...], *, name: str) -> Array:
    """Return a convolution's filters, with the shape [height, width, channels in, channels out]."""
    height, width, channels, _ = shape
    one_by_one = height == width == 1
    filters = _centred(generator, shape, axes=(0, 1, 2) if one_by_one else (0, 1))
    filters *= np.sqrt(_GAIN / (height * width * channels))
    if name == "conv1_conv":
        filters[..., 1::2] = filters[..., ::2]
    elif name in ("conv2_block1_0_conv", "conv2_block1_1_conv"):
        filters[:, :, 1::2] = -filters[:, :, ::2]
    return filters.astype(np.float32)


def _batch_norm(generator: np.random.Generator, shape: tuple[int, ...], *, name: str) -> list[Array]:
    """Return gamma, beta, moving mean and moving variance."""
    gamma = 1 + _uniform(generator, shape) / 10
    beta, mean = (_uniform(generator, shape) / 6 for _ in range(2))
    variance = 1 + _uniform(generator, shape) / 10
    if name.endswith("_3_bn"):
        gamma *= _BRANCH_GAMMA
    if name == "conv1_bn":
        for values in (gamma, beta, mean, variance):
            values[1::2] = values[::2]
        beta[1::2] -= _THRESHOLD
    return [values.astype(np.float32) for values in (gamma, beta, mean, variance)]


def _classifier(generator: np.random.Generator, shape: tuple[int, ...]) -> list[Array]:
    """Return the last layer's weights and biases."""
    weights = _centred(generator, shape, axes=(0,)) * _LOGITS
    return [weights.astype(np.float32), np.zeros(shape[1:], np.float32)]


def _centred(generator: np.random.Generator, shape: tuple[int, ...], *, axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return uniform values of standard deviation 1 that sum to zero along ``axes``."""
    steps = generator.integers(-_STEPS, _STEPS, shape, endpoint=True)
    count = math.prod(shape[axis] for axis in axes)
    centred: npt.NDArray[Any] = steps - steps.sum(axis=axes, keepdims=True) / count
    return centred / _UNIFORM_STD


def _uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return uniform values between -1 and 1."""
    return generator.integers(-_STEPS, _STEPS, shape, endpoint=True) / _STEPS
