"""Determines which signatures accept inputs of other shapes than they declare.

TensorFlow Serving leaves the check of shapes to the operations of the graph. This server does the same if each
operation that an input reaches was tested with hostile shapes (`tried_operations`). Guards protect the operations that
would end the process (`guarded_copy`). A signature whose inputs reach any other operation accepts only its declared
shapes.
"""

from collections.abc import Mapping
from typing import Any, Final

from sealserve.serving.runtime.graph_reach import Reach, find_reaches
from sealserve.serving.runtime.graph_walk import functions_in, functions_of
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
"""Operations that pass tensors on to other operations, and read only a condition."""


def tolerant_signatures(meta_graph: MetaGraphDef) -> frozenset[str]:
    """Return the names of the signatures that accept inputs of any shape."""
    graph = meta_graph.graph_def
    functions = functions_in(graph)
    nodes = {node.name: node for node in graph.node}
    reaches = find_reaches(meta_graph)
    return frozenset(name for name, reach in reaches.items() if _is_tolerant(reach, nodes, functions))


def _is_tolerant(reach: Reach, nodes: Mapping[str, Any], functions: Mapping[str, Any]) -> bool:
    called: list[Any] = [nodes[name] for name in reach.nodes]
    for name, body in reach.bodies.items():
        called.extend(node for node in functions[name].node_def if node.name in body)
    return all(node.op in TRIED or node.op in _FLOW or functions_of(node, functions) == [node.op] for node in called)
