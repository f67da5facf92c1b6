"""Which operations of a graph, and of its functions, the inputs of a signature reach.

Only what an input reaches can be given a shape that the model's author did not choose. The walk is conservative: where
it cannot tell, it says reached.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_SAME_ORDER: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall"})
_LOOPS: Final = frozenset({"While", "StatelessWhile"})
_BRANCHES: Final = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
_STORES: Final = ("Dequeue", "StackPop", "Unstage", "TensorArrayRead", "TensorArrayGather", "TensorArrayConcat")
"""They return what others have put aside, where no edge of the graph leads to."""


def source(name: str) -> str:
    """Return the operation or argument that an input is of: ``x``, ``x:0``, ``x:y:0`` and ``^x`` are of ``x``."""
    return name.removeprefix("^").partition(":")[0]


def functions_of(node: Any, functions: Mapping[str, Any]) -> list[str]:
    """Return the names of the functions that a NodeDef calls."""
    found = [node.op] if node.op in functions else []
    for value in node.attr.values():
        if value.HasField("func"):
            found.append(value.func.name)
        elif value.HasField("list"):
            found.extend(function.name for function in value.list.func)
    return [name for name in found if name in functions]


@dataclass(eq=False, slots=True)
class Reach:
    """What the inputs of a signature reach.

    Args:
        nodes: Operations of the graph that can compute the outputs and that an input reaches, the inputs excepted.
        needed: Operations of the graph that can compute the outputs.
        arguments: For each function that is called with something that an input reaches: the names of those arguments.
    """

    nodes: set[str]
    needed: set[str]
    arguments: dict[str, set[str]] = field(default_factory=dict)

    def reaches_input(self, body: set[str], name: str) -> bool:
        """Whether an input reaches the tensor ``name`` of a graph or function whose reached operations are ``body``."""
        return source(name) in body


def find_reach(graph: Any, functions: Mapping[str, Any], inputs: Iterable[str], outputs: Iterable[str]) -> Reach:
    """Return what the operations ``inputs`` of a GraphDef reach on the way to the operations ``outputs``."""
    nodes = {node.name: node for node in graph.node}
    given = set(inputs)
    needed, waiting = set(), [name for name in outputs if name not in given]
    while waiting:
        name = waiting.pop()
        if name in needed or name not in nodes:
            continue
        needed.add(name)
        waiting.extend(place for place in map(source, nodes[name].input) if place not in given)
    body = reached([nodes[name] for name in needed], given)
    reach = Reach(nodes=body - given, needed=needed)
    _follow([nodes[name] for name in reach.nodes], body, functions, reach.arguments)
    return reach


def reached(nodes: Sequence[Any], given: Iterable[str]) -> set[str]:
    """Return the names in ``given`` and of those of ``nodes`` to which data come from there."""
    consumers: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            if not name.startswith("^"):
                consumers[source(name)].append(node.name)
    found: set[str] = set()
    waiting = [*given, *(node.name for node in nodes if any(part in node.op for part in _STORES))]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(consumers[name])
    return found


def _follow(nodes: Iterable[Any], body: set[str], functions: Mapping[str, Any], arguments: dict[str, set[str]]) -> None:
    """Add the arguments of the functions that ``nodes`` call, and that those call."""
    waiting = [(node, body) for node in nodes]
    while waiting:
        node, within = waiting.pop()
        for name in functions_of(node, functions):
            function = functions[name]
            known = arguments.setdefault(name, set())
            new = set(_given(node, within, function)) - known
            if new or not known:
                known |= new
                inside = reached(function.node_def, known)
                waiting.extend((entry, inside) for entry in function.node_def if entry.name in inside)


def _given(node: Any, body: set[str], function: Any) -> Iterator[str]:
    """Yield the names of a function's arguments that an input reaches where ``node`` calls it."""
    names = [argument.name for argument in function.signature.input_arg]
    data = [name for name in node.input if not name.startswith("^")]
    offset = 1 if node.op in _BRANCHES else 0
    known = node.op in _SAME_ORDER or node.op in _BRANCHES or node.op == function.signature.name
    if not known or len(data) - offset != len(names):
        yield from names
        return
    for place, name in enumerate(names):
        if source(data[place + offset]) in body:
            yield name
