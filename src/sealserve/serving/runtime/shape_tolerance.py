"""Which signatures may be given inputs of other shapes than they declare.

TensorFlow Serving leaves shapes to the operations of the graph, and so does this server where each operation that an
input reaches has been tried with hostile shapes (`tried_operations`), with guards in front of those that would end the
process (`guarded_copy`). A signature whose inputs reach any other operation takes the shapes that it declares.
"""

from typing import Any, Final

from sealserve.serving.runtime.graph_reach import find_reach, functions_of, reached, source
from sealserve.serving.runtime.protos import MetaGraphDef
from sealserve.serving.runtime.tried_operations import TRIED

_FLOW: Final = frozenset(
    {
        *("PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "If", "StatelessIf"),
        *(
            "Case",
            "StatelessCase",
            "Enter",
            "Exit",
            "Switch",
            "Merge",
            "NextIteration",
            "LoopCond",
            "RefSwitch",
            "IdentityN",
        ),
        *("RefEnter", "RefExit", "RefMerge", "RefNextIteration", "NoOp", "ControlTrigger"),
    }
)
"""Operations that pass tensors on to others, and look at none but a condition."""


def tolerant_signatures(meta_graph: MetaGraphDef) -> frozenset[str]:
    """Return the names of the signatures that may be given inputs of any shape."""
    return frozenset(name for name in meta_graph.signature_def if _is_tolerant(meta_graph, name))


def _is_tolerant(meta_graph: MetaGraphDef, signature: str) -> bool:
    graph, definition = meta_graph.graph_def, meta_graph.signature_def[signature]
    functions = {function.signature.name: function for function in graph.library.function}
    nodes = {node.name: node for node in graph.node}
    inputs, outputs = (
        {source(info.name) for info in tensors.values()} for tensors in (definition.inputs, definition.outputs)
    )
    reach = find_reach(graph, functions, inputs, outputs)
    called: list[Any] = [nodes[name] for name in reach.nodes]
    for name, arguments in reach.arguments.items():
        inside = reached(functions[name].node_def, arguments)
        called.extend(node for node in functions[name].node_def if node.name in inside)
    return all(node.op in TRIED or node.op in _FLOW or functions_of(node, functions) == [node.op] for node in called)
