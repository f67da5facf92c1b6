"""The ranks of tensors that are fixed by the operations before them, regardless of the request.

So a network of convolutions needs only one guard before the first convolution, not one before each.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from sealserve.serving.runtime.graph_walk import data_inputs, source

_FIXED: Final = {
    **dict.fromkeys(("Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool", "Conv2DBackpropInput"), 4),
    **dict.fromkeys(("ResizeBilinear", "ResizeNearestNeighbor", "SpaceToDepth", "DepthToSpace"), 4),
    **dict.fromkeys(("Conv3D", "MaxPool3D", "AvgPool3D", "Conv3DBackpropInputV2"), 5),
}
"""Operations whose output always has the same rank."""

_KEPT: Final = frozenset(
    {
        *("Identity", "StopGradient", "Cast", "BiasAdd", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        *(
            "Relu",
            "Relu6",
            "LeakyRelu",
            "Elu",
            "Selu",
            "Softplus",
            "Sigmoid",
            "Tanh",
            "Softmax",
            "Neg",
            "Abs",
            "Square",
        ),
        *("Sqrt", "Rsqrt", "Exp", "Log", "Erf", "Pad", "PadV2", "MirrorPad"),
    }
)
"""Operations whose first output has the rank of the first input."""

_BROADCAST: Final = frozenset({"Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "SquaredDifference"})
"""Operations whose output has the larger rank of two inputs."""


_VARIABLES: Final = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_READS: Final = frozenset({"ReadVariableOp", "Identity"})


class KnownRanks:
    """The known ranks in a graph or function.

    Args:
        nodes: Its operations by name.
        reached: The names of the operations that an input of the signature reaches.
    """

    def __init__(self, nodes: Mapping[str, Any], reached: AbstractSet[str]) -> None:
        self._nodes = nodes
        self._reached = reached
        self._known: dict[str, int | None] = {}

    def of(self, tensor: str) -> int | None:
        """Return the rank of the tensor with an input's name, or None if a request may change the rank."""
        name = source(tensor)
        if name not in self._known:
            self._known[name] = None  # a loop leads here again: the rank is unknown then
            self._known[name] = self._find(self._nodes[name]) if name in self._nodes else None
        return self._known[name]

    def shape_of(self, tensor: str) -> tuple[int, ...] | None:
        """Return the sizes of a tensor that no input of the signature reaches, or None if they are unknown."""
        name = source(tensor)
        node = self._nodes.get(name)
        if node is None or name in self._reached:
            return None
        if node.op == "Const":
            return tuple(dim.size for dim in node.attr["value"].tensor.tensor_shape.dim)
        if "shape" in node.attr and node.op in _VARIABLES:
            return tuple(dim.size for dim in node.attr["shape"].shape.dim)
        if "_output_shapes" in node.attr and len(shapes := node.attr["_output_shapes"].list.shape) == 1:
            return tuple(dim.size for dim in shapes[0].dim)
        return self.shape_of(node.input[0]) if node.op in _READS and node.input else None

    def _find(self, node: Any) -> int | None:
        data = data_inputs(node)
        if node.op in _FIXED:
            return _FIXED[node.op]
        if node.op in _KEPT:
            return self.of(data[0])
        if node.op in _BROADCAST:
            ranks = [self.of(name) for name in data]
            return None if None in ranks else max(rank for rank in ranks if rank is not None)
        if node.op == "ConcatV2":  # all its inputs must have the same rank
            return next((rank for rank in map(self.of, data[:-1]) if rank is not None), None)
        return self._written(node, data)

    def _written(self, node: Any, data: Sequence[str]) -> int | None:
        """Return the rank that the model's file declares."""
        if node.op == "Const":
            return len(node.attr["value"].tensor.tensor_shape.dim)
        if node.op == "Reshape" and (shape := self._nodes.get(source(data[1]))) is not None and shape.op == "Const":
            return int(shape.attr["value"].tensor.tensor_shape.dim[0].size)
        if node.name not in self._reached and "_output_shapes" in node.attr:
            # TensorFlow's own inference when the model was saved; no request changes this tensor.
            shapes = node.attr["_output_shapes"].list.shape
            if len(shapes) == 1 and not shapes[0].unknown_rank:
                return len(shapes[0].dim)
        return None
