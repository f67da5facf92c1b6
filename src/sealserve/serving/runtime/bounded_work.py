"""Determines which outputs of a graph take a time that depends only on the shapes of the inputs.

If such a run was fast, later runs with the same shapes are fast too, and their deadline does not need to be watched.
Other runs can take any time, regardless of earlier measurements. Examples are a loop whose end depends on an input, a
queue that waits for another request, or a tensor whose size is a value of an input. So the lists name operations with
a bounded time, and the runs of all other operations are watched.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from sealserve.serving.runtime.graph_walk import by_name, data_inputs, functions_in, source, walk
from sealserve.serving.runtime.protos import MetaGraphDef

_SHAPES: Final = frozenset({"Const", "Shape", "ShapeN", "Size", "Rank"})
"""Operations whose outputs do not depend on the inputs' values."""

_VALUES: Final = frozenset({"Placeholder", "Variable", "VariableV2", "VarHandleOp", "ReadVariableOp"})
"""Operations whose outputs come from outside of the graph, or can change."""

_BOUNDED: Final = (
    _SHAPES
    | _VALUES
    | frozenset(
        {
            *("NoOp", "Identity", "IdentityN", "StopGradient", "PreventGradient", "Cast", "Pack", "Unpack"),
            *(
                "Add",
                "AddV2",
                "AddN",
                "Sub",
                "Mul",
                "Div",
                "RealDiv",
                "DivNoNan",
                "FloorDiv",
                "Maximum",
                "Minimum",
                "Pow",
            ),
            *(
                "Neg",
                "Abs",
                "Sign",
                "Square",
                "SquaredDifference",
                "Sqrt",
                "Rsqrt",
                "Exp",
                "Log",
                "Log1p",
                "Erf",
                "Reciprocal",
            ),
            *(
                "Round",
                "Floor",
                "Ceil",
                "Relu",
                "Relu6",
                "LeakyRelu",
                "Elu",
                "Selu",
                "Softplus",
                "Softsign",
                "Sigmoid",
                "Tanh",
            ),
            *(
                "Equal",
                "NotEqual",
                "Less",
                "LessEqual",
                "Greater",
                "GreaterEqual",
                "LogicalAnd",
                "LogicalOr",
                "LogicalNot",
            ),
            *(
                "Tanh",
                "Reciprocal",
                "Select",
                "SelectV2",
                "ClipByValue",
                "BiasAdd",
                "Softmax",
                "LogSoftmax",
                "LRN",
                "Squeeze",
            ),
            *("MatMul", "BatchMatMul", "BatchMatMulV2", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
            *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "AvgPool", "AvgPool3D", "MaxPool", "MaxPool3D"),
        }
    )
)
"""Operations whose time and output shapes depend only on the shapes of their inputs."""

_DATA: Final[Mapping[str, int]] = {
    **dict.fromkeys(("Sum", "Mean", "Max", "Min", "Prod", "All", "Any", "ArgMax", "ArgMin"), 0),
    **dict.fromkeys(("Reshape", "Transpose", "ExpandDims", "Slice", "StridedSlice", "SplitV", "Pad", "Tile"), 0),
    **dict.fromkeys(("BroadcastTo", "Cumsum", "TopKV2", "ResizeBilinear", "ResizeNearestNeighbor"), 0),
    **dict.fromkeys(("Split", "Fill"), 1),
}
"""The same, if only the operand at this position depends on an input's value, so no axis, size or shape does."""

_CALLS: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


def bounded_outputs(meta_graph: MetaGraphDef) -> frozenset[str]:
    """Return the names of the tensors in signatures' outputs that take a bounded time."""
    functions = functions_in(meta_graph.graph_def)
    bounded = set(functions)
    while unbounded := {name for name in bounded if not _is_bounded_body(functions[name], bounded)}:
        bounded -= unbounded
    signatures = meta_graph.signature_def.values()
    fed = {source(info.name) for signature in signatures for info in signature.inputs.values()}
    nodes = by_name(meta_graph.graph_def.node)
    graph = _Graph(nodes, fed, bounded)
    found: dict[str, bool] = {}
    for signature in signatures:
        # An operation other than a placeholder may still run, for its other outputs or its control dependents.
        given = {
            name
            for name in (source(info.name) for info in signature.inputs.values())
            if name in nodes and nodes[name].op == "Placeholder"
        }
        for info in signature.outputs.values():
            found[info.name] = found.get(info.name, True) and graph.is_bounded([source(info.name)], given)
    return frozenset(name for name, is_bounded in found.items() if is_bounded)


def _is_bounded_body(function: Any, bounded: AbstractSet[str]) -> bool:
    nodes = by_name(function.node_def)
    arguments = {argument.name for argument in function.signature.input_arg}
    return _Graph(nodes, arguments, bounded).is_bounded(nodes, arguments)


class _Graph:
    """The graph, or the body of a function.

    Args:
        nodes: Its operations by name.
        fed: Operations or arguments whose values come from outside.
        bounded: Functions that take a bounded time.
    """

    def __init__(self, nodes: Mapping[str, Any], fed: AbstractSet[str], bounded: AbstractSet[str]) -> None:
        self._nodes = nodes
        self._fed = fed
        self._bounded = bounded
        self._shapes = {name for name, node in nodes.items() if node.op in _SHAPES} - fed

    def is_bounded(self, wanted: Iterable[str], given: AbstractSet[str]) -> bool:
        """Return whether all operations that compute ``wanted`` from ``given`` are bounded."""
        return self._is_every(wanted, self._is_bounded_node, stop=given)

    def _is_bounded_node(self, node: Any) -> bool:
        if node.op in _CALLS:
            return node.attr["f"].func.name in self._bounded
        operands = data_inputs(node)
        if node.op == "ConcatV2":
            return self._follows_from_shapes(operands[-1:])
        if node.op in _DATA:
            return self._follows_from_shapes(operands[: _DATA[node.op]] + operands[_DATA[node.op] + 1 :])
        return node.op in _BOUNDED

    def _follows_from_shapes(self, operands: Iterable[str]) -> bool:
        """Return whether tensors are constants, or are computed only from constants and shapes."""
        return self._is_every(operands, self._is_fixed_node, stop=self._shapes)

    def _is_fixed_node(self, node: Any) -> bool:
        return node.name not in self._fed and (node.op in _DATA or node.op in _BOUNDED - _VALUES)

    def _is_every(self, wanted: Iterable[str], accepts: Callable[[Any], bool], *, stop: AbstractSet[str]) -> bool:
        """Return whether each operation on a path from ``stop`` to ``wanted`` is accepted."""

        def before(names: Iterable[str]) -> list[str]:
            return [name for name in map(source, names) if name not in stop]

        nodes = (self._nodes.get(name) for name in walk(before(wanted), lambda name: before(self._nodes[name].input)))
        return all(node is not None and accepts(node) for node in nodes)
