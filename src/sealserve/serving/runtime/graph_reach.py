"""Determines the operations of a graph, and of its functions, that the inputs of a signature reach.

Only these operations can receive a shape that the model's author did not choose. The walk is conservative: an uncertain
operation counts as reached.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sealserve.serving.runtime.graph_walk import (
    by_name,
    data_inputs,
    functions_in,
    functions_of,
    place_of,
    source,
    walk,
)

_SAME_ORDER: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall"})
_BRANCHES: Final = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
_STORES: Final = (
    *("Queue", "StackPop", "Unstage", "TensorArrayRead", "TensorArrayGather", "TensorArrayConcat"),
    *("Iterator", "Accumulator", "Barrier", "TakeManySparse", "GetSessionTensor", "LookupTableExport"),
)
"""Parts of names of operations that return stored tensors. The graph has no edge to them from the writing operation."""
_VARIABLES: Final = frozenset({"VarHandleOp", "_VarHandlesOp", "Variable", "VariableV2", "TemporaryVariable"})
_WRITERS: Final = (
    *("Assign", "ResourceScatter", "ResourceApply", "ResourceSparseApply", "ResourceStridedSliceAssign"),
    *("ScatterUpdate", "ScatterAdd", "ScatterSub", "ScatterMul", "ScatterDiv", "ScatterMin", "ScatterMax"),
    *("ScatterNdUpdate", "ScatterNdAdd", "ScatterNdSub", "ScatterNdMin", "ScatterNdMax", "StridedSliceAssign"),
    *("Apply", "SparseApply", "CountUpTo", "ResourceCountUpTo"),
)
"""Prefixes of names of operations that write to a variable."""


@dataclass(eq=False, slots=True)
class Reach:
    """The operations that the inputs of a signature reach.

    Args:
        nodes: Operations of the graph that run for the outputs and that an input reaches.
        needed: Operations of the graph that run for the outputs.
        bodies: For each function that a reached operation calls: the names of its reached arguments and operations.
    """

    nodes: set[str]
    needed: set[str]
    bodies: dict[str, set[str]] = field(default_factory=dict)


def find_reaches(meta_graph: Any) -> dict[str, Reach]:
    """Return the operations that the inputs of each signature reach on paths to its outputs.

    A variable that a request writes has a shape and values that the model's author did not choose. This affects later
    requests to any signature. So if a request can write to a variable, all variables count as reached.
    """
    graph = meta_graph.graph_def
    nodes, functions = by_name(graph.node), functions_in(graph)
    for is_written in (False, True):
        found = {
            name: _find_reach(nodes, functions, definition, is_written=is_written)
            for name, definition in meta_graph.signature_def.items()
        }
        if not any(_writes(reach, nodes, functions) for reach in found.values()):
            break
    return found


def needed_operations(nodes: Mapping[str, Any], inputs: Iterable[str], outputs: Iterable[str]) -> set[str]:
    """Return the operations that run to compute the tensors ``outputs`` from the tensors ``inputs``.

    If one output of an operation is an input of the signature, the operation still runs for its other outputs and for
    operations that wait for it.
    """
    given = set(map(place_of, inputs))

    def sources(names: Iterable[str]) -> list[str]:
        return [name for entry in names if place_of(entry) not in given and (name := source(entry)) in nodes]

    return set(walk(sources(outputs), lambda name: sources(nodes[name].input)))


def _find_reach(nodes: Mapping[str, Any], functions: Mapping[str, Any], definition: Any, *, is_written: bool) -> Reach:
    inputs, outputs = (
        [info.name for info in tensors.values() if info.name] for tensors in (definition.inputs, definition.outputs)
    )
    needed = needed_operations(nodes, inputs, outputs)
    body = reached([nodes[name] for name in needed], map(source, inputs), is_written=is_written)
    reach = Reach(nodes=body & needed, needed=needed)
    _follow([nodes[name] for name in reach.nodes], body, functions, reach.bodies, is_written=is_written)
    return reach


def _writes(reach: Reach, nodes: Mapping[str, Any], functions: Mapping[str, Any]) -> bool:
    """Return whether a reached operation writes to a variable."""
    return any(nodes[name].op.startswith(_WRITERS) for name in reach.nodes) or any(
        node.op.startswith(_WRITERS) and node.name in body
        for function, body in reach.bodies.items()
        for node in functions[function].node_def
    )


def reached(nodes: Sequence[Any], given: Iterable[str], *, is_written: bool = False) -> set[str]:
    """Return the names in ``given``, and the names of all ``nodes`` that data from ``given`` reaches.

    Args:
        nodes: The operations of a graph or a function.
        given: Operations or arguments whose tensors come from a request.
        is_written: Whether variables can contain tensors of a request.
    """
    consumers: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for name in data_inputs(node):
            consumers[source(name)].append(node.name)
    start = [*given, *(node.name for node in nodes if any(part in node.op for part in _STORES))]
    if is_written:
        start.extend(node.name for node in nodes if node.op in _VARIABLES)
    return set(walk(start, consumers.__getitem__))


def _follow(
    nodes: Iterable[Any],
    body: set[str],
    functions: Mapping[str, Any],
    bodies: dict[str, set[str]],
    *,
    is_written: bool,
) -> None:
    """Add the reached operations in the functions that ``nodes`` call, directly or indirectly."""
    arguments: dict[str, set[str]] = {}
    waiting = [(node, body) for node in nodes]
    while waiting:
        node, within = waiting.pop()
        for name in functions_of(node, functions):
            function = functions[name]
            known = arguments.setdefault(name, set())
            new = set(_given(node, within, function)) - known
            if new or name not in bodies:
                known |= new
                inside = reached(function.node_def, known, is_written=is_written)
                bodies[name] = inside
                waiting.extend((entry, inside) for entry in function.node_def if entry.name in inside)


def _given(node: Any, body: set[str], function: Any) -> Iterator[str]:
    """Yield the names of a function's arguments that an input reaches if ``node`` calls the function."""
    names = [argument.name for argument in function.signature.input_arg]
    data = data_inputs(node)
    offset = 1 if node.op in _BRANCHES else 0
    known = node.op in _SAME_ORDER or node.op in _BRANCHES or node.op == function.signature.name
    if not known or len(data) - offset != len(names):
        yield from names
        return
    for place, name in enumerate(names):
        if source(data[place + offset]) in body:
            yield name
