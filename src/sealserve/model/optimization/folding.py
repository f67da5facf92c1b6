"""The rewriting of constants around convolutions and products of matrices that TensorFlow's passes do not do.

TensorFlow's constant folding multiplies factors into the filters of a convolution only if the channels are last and the
convolution is not depthwise. It also moves added vectors behind a sum, where oneDNN's kernels do not merge them.

Source: tensorflow/tensorflow 2.21, ``core/grappler/optimizers/constant_folding.cc`` (``MulConvPushDown``,
``ConstantPushDown``), ``remapper.cc`` (``FindContractionWithBiasAndAddActivation``),
``core/kernels/fused_batch_norm_op.cc``.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sealserve.model.program import node_name
from sealserve.model.tensorflow_import import import_tensorflow

_BATCH_NORMS: Final = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_STATISTICS: Final = slice(1, 5)
"""The inputs scale, offset, mean and variance of a batch normalization."""
_OTHER_OUTPUTS: Final = range(1, 6)
_ADDITIONS: Final = ("Add", "AddV2")
_CONVOLUTIONS: Final = ("Conv2D", "DepthwiseConv2dNative")
_CHANNELS_FIRST: Final = b"NCHW"

Array = npt.NDArray[Any]


class Folding:
    """Rewrites a graph in place. Each method returns the number of changes.

    Args:
        graph: A ``GraphDef``.
        keep: Names of nodes that are not changed, because a request or the loader uses them.
    """

    def __init__(self, graph: Any, keep: Collection[str]) -> None:
        self._tf = import_tensorflow()
        self._graph = graph
        self._keep = keep
        self._nodes = {node.name: node for node in graph.node}
        self._float32 = self._tf.float32.as_datatype_enum

    def split_batch_norms(self) -> int:
        """Replace each batch normalization with constant statistics by a product and a sum."""
        read = {name.removeprefix("^") for node in self._graph.node for name in node.input}
        replaced = 0
        for norm in list(self._graph.node):
            if norm.op not in _BATCH_NORMS or norm.attr["is_training"].b or norm.name in self._keep:
                continue
            if norm.attr["T"].type != self._float32 or any(f"{norm.name}:{n}" in read for n in _OTHER_OUTPUTS):
                continue
            statistics = [value for name in norm.input[_STATISTICS] if (value := self._constant(name)) is not None]
            if len(statistics) < len(norm.input[_STATISTICS]):
                continue
            scale, offset, mean, variance = (value.astype(np.float64) for value in statistics)
            factor = scale / np.sqrt(variance + norm.attr["epsilon"].f)
            shape = (-1, 1, 1) if norm.attr["data_format"].s == _CHANNELS_FIRST else (-1,)
            product = self._add(f"{norm.name}/product", "Mul")
            product.attr["T"].type = self._float32
            product.input.extend([norm.input[0], self._add_constant(f"{norm.name}/factor", factor.reshape(shape))])
            shift = self._add_constant(f"{norm.name}/offset", (offset - mean * factor).reshape(shape))
            norm.op = "AddV2"
            norm.input[:] = [product.name, shift, *norm.input[_STATISTICS.stop :]]  # then control dependencies
            for attribute in set(norm.attr) - {"T"}:
                del norm.attr[attribute]
            replaced += 1
        return replaced

    def fold_products(self) -> int:
        """Multiply constant factors of channels into the filters of the convolution, if nothing else reads it."""
        readers = Counter(node_name(name) for node in self._graph.node for name in node.input)
        folded = 0
        for product in list(self._graph.node):
            if product.op != "Mul" or product.name in self._keep or product.attr["T"].type != self._float32:
                continue
            for data, constant in ((0, 1), (1, 0)):
                convolution = self._nodes.get(product.input[data])
                if convolution is None or convolution.op not in _CONVOLUTIONS or convolution.name in self._keep:
                    continue
                factors = self._channel_values(product.input[constant], convolution)
                filters = self._constant(convolution.input[1])
                if factors is None or filters is None or readers[convolution.name] > 1:
                    continue
                scaled = filters.astype(np.float64) * factors.reshape(_per_filter(convolution, filters))
                convolution.input[1] = self._add_constant(f"{product.name}/filters", scaled)
                controls = [name for name in product.input if name.startswith("^")]
                product.op = "Identity"
                product.input[:] = [convolution.name, *controls]
                folded += 1
                break
        return folded

    def name_biases(self) -> int:
        """Replace each addition of a constant vector of channels to a contraction by a ``BiasAdd``."""
        named = 0
        for node in list(self._graph.node):
            if node.op not in _ADDITIONS or node.name in self._keep:
                continue
            for data, vector in ((0, 1), (1, 0)):
                source = self._nodes.get(node.input[data])
                if source is None or source.op not in (*_CONVOLUTIONS, "MatMul"):
                    continue
                values = self._channel_values(node.input[vector], source)
                if values is None:
                    continue
                bias = self._add_constant(f"{node.name}/bias", values, node.attr["T"].type)
                node.op = "BiasAdd"
                node.input[:] = [node.input[data], bias, *node.input[2:]]  # then control dependencies
                node.attr["data_format"].s = source.attr["data_format"].s if "data_format" in source.attr else b"NHWC"
                named += 1
                break
        self._remove_unused()
        return named

    def _channel_values(self, name: str, contraction: Any) -> Array | None:
        """Return a constant as a vector of a contraction's channels, or None if it has another form."""
        values, weights = self._constant(name), self._constant(contraction.input[1])
        if values is None or weights is None:
            return None
        channels = weights.shape[-1]
        if contraction.op == "DepthwiseConv2dNative":
            channels *= weights.shape[-2]
        elif contraction.op == "MatMul" and contraction.attr["transpose_b"].b:
            channels = weights.shape[0]
        first = contraction.op != "MatMul" and contraction.attr["data_format"].s == _CHANNELS_FIRST
        axis = -3 if first else -1
        rank = 2 if contraction.op == "MatMul" else 4
        if not -axis <= values.ndim <= rank or values.size != channels or values.shape[axis] != channels:
            return None
        return values.reshape(-1)

    def _constant(self, name: str) -> Array | None:
        node = self._nodes.get(name)
        if node is None or node.op != "Const":
            return None
        return np.asarray(self._tf.make_ndarray(node.attr["value"].tensor))

    def _add_constant(self, name: str, values: Array, dtype: int | None = None) -> str:
        """Add a constant, in float32 by default, and return its name."""
        kind = self._tf.dtypes.as_dtype(dtype or self._float32)
        node = self._add(name, "Const")
        node.attr["dtype"].type = kind.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(self._tf.make_tensor_proto(values.astype(kind.as_numpy_dtype)))
        return str(node.name)

    def _add(self, name: str, operation: str) -> Any:
        while name in self._nodes:
            name += "_"
        node = self._graph.node.add(name=name, op=operation)
        self._nodes[name] = node
        return node

    def _remove_unused(self) -> None:
        """Remove constants that no node reads any more."""
        used = {node_name(name) for node in self._graph.node for name in node.input}
        kept = [node for node in self._graph.node if node.op != "Const" or node.name in used or node.name in self._keep]
        del self._graph.node[:]
        self._graph.node.extend(kept)


def _per_filter(convolution: Any, filters: Array) -> tuple[int, ...]:
    """Return the shape in which factors of channels are multiplied with filters."""
    height_and_width = (1, 1)
    if convolution.op == "DepthwiseConv2dNative":
        return (*height_and_width, *filters.shape[2:])
    return (*height_and_width, 1, filters.shape[3])
