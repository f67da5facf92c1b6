"""Which signatures may be given inputs of other shapes than they declare.

TensorFlow Serving leaves shapes to the operations of the graph. Most of these look at their inputs' shapes and answer
with an error; some rely on them, and end the process: in TensorFlow 2.21 a Conv2D whose input has another rank does. So
a shape that the signature does not declare is let through only where each operation that the outputs need is one of
those below, which have been given every rank and size.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sealserve.serving.runtime.protos import MetaGraphDef

SPEC_VERSION: Final = "2.21"

TOLERANT_OPERATIONS: Final = frozenset(
    {
        *("Const", "NoOp", "Identity", "IdentityN", "StopGradient", "Cast", "Shape"),
        *("Variable", "VariableV2", "VarHandleOp", "ReadVariableOp"),
        *("Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "Pow", "SquaredDifference", "BiasAdd"),
        *("Neg", "Abs", "Square", "Sqrt", "Rsqrt", "Exp", "Log", "Round", "Floor"),
        *("Relu", "Relu6", "Elu", "Selu", "Softplus", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "MatMul"),
        *("StringJoin", "StringLower", "StringUpper"),
    }
)
"""Operations that take or refuse tensors of any rank and size."""

_CALLS: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


def tolerant_signatures(meta_graph: MetaGraphDef) -> frozenset[str]:
    """Return the names of the signatures that may be given inputs of any shape."""
    functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    return frozenset(
        name
        for name, definition in meta_graph.signature_def.items()
        if _all_tolerant(
            nodes,
            functions,
            wanted={_operation(info.name) for info in definition.outputs.values()},
            given={_operation(info.name) for info in definition.inputs.values()},
        )
    )


def _all_tolerant(
    nodes: Mapping[str, Any], functions: Mapping[str, Any], *, wanted: Iterable[str], given: Iterable[str]
) -> bool:
    """Whether what computes ``wanted`` from ``given`` consists of tolerant operations only."""
    seen, waiting = set(given), list(wanted)
    called: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = nodes.get(name)
        if node is None:
            return False
        if node.op in _CALLS:
            called.add(node.attr["f"].func.name)
        elif node.op not in TOLERANT_OPERATIONS:
            return False
        waiting.extend(map(_operation, node.input))
    return _bodies_tolerant(called, functions)


def _bodies_tolerant(called: set[str], functions: Mapping[str, Any]) -> bool:
    """Whether the functions ``called``, and those that they call, consist of tolerant operations only."""
    seen: set[str] = set()
    waiting = list(called)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in functions:
            return False
        for node in functions[name].node_def:
            if node.op in _CALLS:
                waiting.append(node.attr["f"].func.name)
            elif node.op not in TOLERANT_OPERATIONS:
                return False
    return True


def _operation(name: str) -> str:
    """Return the operation of a tensor's or an input's name: ``x``, ``x:0`` and ``^x`` are of ``x``."""
    return name.removeprefix("^").partition(":")[0]
