"""ResNet50 v1.5 as a frozen graph, with the real architecture and weights from a seed.

Source: K. He et al., "Deep Residual Learning for Image Recognition" (2015), table 1. For version 1.5: NVIDIA's
DeepLearningExamples. A bottleneck that halves the picture does so in its 3x3 convolution, not in the 1x1 before it.
``keras.applications`` has version 1, whose 1x1 convolutions also have biases.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealserve.atomic_file import write_file
from sealserve.model.frozen_graph import reachable
from sealserve.model.random_weights import initialise
from sealserve.model.tensorflow_import import import_tensorflow

INPUT = "input"
OUTPUT = "predict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes of a ResNet with bottlenecks.

    Args:
        blocks: The number of residual blocks in each stage.
        width: The number of channels after the first layer; each stage doubles it.
        side: The height and width of a picture, in pixels.
        classes: The number of classes.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    side: int = 224
    classes: int = 1000


RESNET50 = Architecture()


def build_frozen_graph(
    destination: Path,
    *,
    seed: int = 0,
    architecture: Architecture = RESNET50,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write a frozen FP32 graph: ``input`` [batch, side, side, 3] to ``predict`` [batch, classes], probabilities.

    One seed gives the same bytes with the same version of TensorFlow. Pictures may be in any range, such as 0..1 or
    0..255.

    Args:
        destination: The file to write, atomically.
        seed: The seed of the weights and batch-norm values.
        architecture: The network's sizes.
        progress: Called at the start of each step with a short description of the step.

    Raises:
        UnavailableError: `model.tensorflow-missing`: TensorFlow is not installed.
        UnavailableError: `file.disk-full`: The disk is full.
    """
    tell = progress or (lambda _: None)
    tell("importing TensorFlow")
    tf = import_tensorflow()
    tell("building the layers")
    model = build_model(architecture)
    tell(f"drawing {model.count_params():,} weights from seed {seed}")
    initialise(model, seed=seed)
    tell("freezing the graph")
    graph = _freeze(tf, model, architecture)
    tell("writing the graph")
    write_file(destination, graph.SerializeToString(deterministic=True))


def build_model(architecture: Architecture = RESNET50) -> Any:
    """Return the network as a Keras model, with all weights zero.

    Raises:
        UnavailableError: `model.tensorflow-missing`: TensorFlow is not installed.
    """
    keras = import_tensorflow().keras
    layers = keras.layers
    picture = keras.Input((architecture.side, architecture.side, 3), name="picture")
    x = _convolution(layers, picture, architecture.width, size=7, stride=2, name="conv1")
    x = layers.ReLU(name="conv1_relu")(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    for stage, blocks in enumerate(architecture.blocks):
        for block in range(blocks):
            x = _bottleneck(
                layers,
                x,
                architecture.width << stage,
                stride=2 if stage and not block else 1,
                project=not block,
                name=f"conv{stage + 2}_block{block + 1}",
            )
    x = layers.GlobalAveragePooling2D(name="average")(x)
    logits = layers.Dense(architecture.classes, kernel_initializer="zeros", name="logits")(x)
    return keras.Model(picture, logits, name="resnet50")


def _bottleneck(layers: Any, x: Any, width: int, *, stride: int, project: bool, name: str) -> Any:
    shortcut = _convolution(layers, x, 4 * width, size=1, stride=stride, name=f"{name}_0") if project else x
    y = layers.ReLU(name=f"{name}_1_relu")(_convolution(layers, x, width, size=1, stride=1, name=f"{name}_1"))
    y = layers.ReLU(name=f"{name}_2_relu")(_convolution(layers, y, width, size=3, stride=stride, name=f"{name}_2"))
    y = _convolution(layers, y, 4 * width, size=1, stride=1, name=f"{name}_3")
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([shortcut, y]))


def _convolution(layers: Any, x: Any, width: int, *, size: int, stride: int, name: str) -> Any:
    x = layers.Conv2D(
        width, size, stride, padding="same", use_bias=False, kernel_initializer="zeros", name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)


def _freeze(tf: Any, model: Any, architecture: Architecture) -> Any:
    """Return a GraphDef of ``model`` and softmax, with variables as constants and without unneeded nodes."""
    from tensorflow.python.framework.convert_to_constants import (  # noqa: PLC0415  # TensorFlow is optional
        convert_variables_to_constants_v2,
    )

    def predict(picture: Any) -> Any:
        return tf.identity(tf.nn.softmax(model(picture, training=False)), name=OUTPUT)

    shape = [None, architecture.side, architecture.side, 3]
    signature = [tf.TensorSpec(shape, tf.float32, name=INPUT)]
    function = tf.function(predict, input_signature=signature, autograph=False).get_concrete_function()
    whole = convert_variables_to_constants_v2(function).graph.as_graph_def()
    needed = reachable(whole, [OUTPUT])
    nodes = [node for node in whole.node if node.name in needed]
    return tf.compat.v1.GraphDef(node=nodes, versions=whole.versions)
