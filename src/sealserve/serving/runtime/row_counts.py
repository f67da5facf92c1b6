"""Determines which outputs of a graph have a number of rows that depends on the inputs' values.

``tf.where``, ``tf.unique`` and ``tf.boolean_mask`` return as many rows as they find. By chance this can be the number
of rows of the batch, and a row would be sent to a wrong request. So the decision is based on the graph, not on the
result.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sealserve.serving.runtime.graph_walk import by_name, data_inputs, functions_in, source, walk
from sealserve.serving.runtime.protos import MetaGraphDef

_COUNTED: Final = frozenset(
    {
        *("Where", "Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2", "ListDiff", "DynamicPartition"),
        *(f"NonMaxSuppression{version}" for version in ("", "V2", "V3", "V4", "V5", "WithOverlaps")),
        *("StringSplit", "StringSplitV2", "RaggedRange", "SparseFillEmptyRows", "DenseToDenseSetOperation"),
    }
)
"""Operations whose number of output rows depends on the values."""

_FIRST: Final = frozenset(
    {
        *("Identity", "StopGradient", "Cast", "Squeeze", "ExpandDims", "Reshape", "Transpose", "StridedSlice", "Slice"),
        *(
            "Neg",
            "Abs",
            "Sign",
            "Square",
            "Sqrt",
            "Rsqrt",
            "Exp",
            "Log",
            "Round",
            "Floor",
            "Ceil",
            "LogicalNot",
            "OneHot",
        ),
        *("Relu", "Relu6", "Elu", "Selu", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "BiasAdd", "MatMul", "Cumsum"),
        *(
            "AsString",
            "StringLower",
            "StringUpper",
            "StringToNumber",
            "EnsureShape",
            "CheckNumerics",
            "Reverse",
            "TopKV2",
        ),
        *("Sum", "Mean", "Max", "Min", "Prod", "All", "Any", "ArgMax", "ArgMin", "Pad", "PadV2", "Unpack", "Einsum"),
        *("Softplus", "Softsign", "LeakyRelu", "Log1p", "Expm1", "Erf", "Sin", "Cos", "Rint", "Reciprocal", "Bitcast"),
        *("ZerosLike", "OnesLike", "IsNan", "IsInf", "IsFinite", "ClipByValue", "BatchMatMul", "BatchMatMulV2"),
        *("Conv2D", "Conv3D", "MaxPool", "AvgPool", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        *("StringToHashBucket", "StringToHashBucketFast", "StringToHashBucketStrong", "StringStrip", "StringLength"),
        *("Substr", "RegexReplace", "StaticRegexReplace", "RegexFullMatch", "StaticRegexFullMatch", "DecodeRaw"),
    }
)
"""Operations with a row for each row of their first operand."""

_EACH: Final = frozenset(
    {
        *("Add", "AddV2", "AddN", "Sub", "Mul", "Div", "RealDiv", "FloorDiv", "FloorMod", "Maximum", "Minimum", "Pow"),
        *("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "SelectV2"),
        *("IdentityN", "ConcatV2", "Concat", "StringJoin", "Select"),
        *("Pack", "SquaredDifference", "DivNoNan", "Xdivy", "Atan2", "LogicalXor"),
    }
)
"""Operations with a row for each row of an operand."""

_SECOND: Final = frozenset({"Gather", "GatherV2", "GatherNd", "ResourceGather", "ResourceGatherNd"}) | {
    *("LookupTableFind", "LookupTableFindV2", "Split"),
}
"""Operations with a row for each row of their second operand."""

_CALLS: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_Found = tuple[bool, frozenset[int]]


def counted_outputs(meta_graph: MetaGraphDef) -> frozenset[str]:
    """Return the names of the tensors in signatures' outputs whose number of rows depends on values."""
    graph = _Graph(functions_in(meta_graph.graph_def))
    nodes = by_name(meta_graph.graph_def.node)
    names = {info.name for signature in meta_graph.signature_def.values() for info in signature.outputs.values()}
    return frozenset(name for name in names if graph.trace(nodes, {}, name)[0])


class _Graph:
    def __init__(self, functions: Mapping[str, Any]) -> None:
        self._functions = functions
        self._known: dict[tuple[str, int], _Found] = {}

    def trace(self, nodes: Mapping[str, Any], arguments: Mapping[str, int], tensor: str) -> _Found:
        """Trace the rows of a tensor: return whether they are counted, and the arguments whose rows they may be."""

        def following(name: str) -> Iterable[str]:
            node = nodes.get(source(name))
            return () if node is None else self._step(node, name)[1]

        reached = set()
        for name in walk([tensor], following):
            operation = source(name)
            if operation in arguments:
                reached.add(arguments[operation])
            if operation in nodes and self._step(nodes[operation], name)[0]:
                return True, frozenset()
        return False, frozenset(reached)

    def _step(self, node: Any, tensor: str) -> tuple[bool, Sequence[str]]:
        """Return whether the rows of an operation's output are counted, and the tensors whose rows they may be."""
        operands = data_inputs(node)
        if node.op in _CALLS:
            index = tensor.partition(":")[2].rpartition(":")[2]  # of x, x:0 and x:y:0
            counted, through = self._call(node.attr["f"].func.name, int(index or 0))
            return counted, [operands[position] for position in through]
        return node.op in _COUNTED, _with_its_rows(node.op, operands)

    def _call(self, name: str, index: int) -> _Found:
        if (name, index) not in self._known:
            self._known[name, index] = (False, frozenset())  # a preliminary value, because a function may call itself
            function = self._functions.get(name)
            if function is not None and index < len(function.signature.output_arg):
                arguments = {argument.name: place for place, argument in enumerate(function.signature.input_arg)}
                result = function.ret[function.signature.output_arg[index].name]
                nodes = by_name(function.node_def)
                self._known[name, index] = self.trace(nodes, arguments, result)
        return self._known[name, index]


def _with_its_rows(operation: str, operands: list[str]) -> list[str]:
    """Return the operands whose rows may be the rows of the operation's output."""
    if operation in _EACH:
        return operands
    if operation in _FIRST:
        return operands[:1]
    return operands[1:2] if operation in _SECOND else []
