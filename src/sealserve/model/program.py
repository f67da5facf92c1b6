"""A meta graph as a program: its nodes and functions by name, and the nodes that run for given tensors.

The set of nodes that run is overestimated: it contains all nodes of a function, and all functions that a node names in
any attribute.
Source of what TensorFlow follows: ``core/graph/subgraph.cc`` (``PruneForReverseReachability``),
``core/framework/function.cc``, ``core/grappler/optimizers/implementation_selector.cc`` (``api_implements``) of
TensorFlow 2.21.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.operations import class_of

Place = tuple[str, str]
"""A node: the name of its function (empty for the graph itself), and the node's name."""

_IMPLEMENTS: Final = "api_implements"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The nodes and functions of a meta graph.

    Args:
        nodes: The graph's nodes by name.
        functions: The nodes of each function by name, by the function's name.
        arguments: The names of each function's arguments.
        substitutes: The functions that TensorFlow may run instead of a function, or together with it.
    """

    nodes: Mapping[str, pb.NodeDef]
    functions: Mapping[str, Mapping[str, pb.NodeDef]]
    arguments: Mapping[str, tuple[str, ...]]
    substitutes: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, graph: pb.MetaGraphDef) -> "Program":
        """Return the program of a meta graph.

        Raises:
            InputError: `model.ambiguous`: A name is empty or repeated, or a function has the name of an operation. Or a
                node takes an attribute from the caller of its function.
        """
        library = graph.graph_def.library
        _check_unique((function.signature.name for function in library.function), "functions")
        functions = {}
        arguments = {}
        for function in library.function:
            name = function.signature.name
            if name in class_of():
                raise ModelCode.AMBIGUOUS.error(
                    f"The model is ambiguous: its function {name!r} has the name of an operation of TensorFlow.",
                    hint="Export the model again. TensorFlow itself never gives a function such a name.",
                )
            functions[name] = _by_name(function.node_def, f"nodes of the function {name!r}")
            _check_written_out(name, function.node_def)
            arguments[name] = tuple(argument.name for argument in function.signature.input_arg)
            _check_unique((*arguments[name], *functions[name]), f"nodes and arguments of the function {name!r}")
        return cls(
            nodes=_by_name(graph.graph_def.node, "nodes"),
            functions=functions,
            arguments=arguments,
            substitutes=_substitutes(library),
        )

    def all_nodes(self) -> Iterator[tuple[Place, pb.NodeDef]]:
        """Yield each node of the graph and of its functions, whether or not it runs."""
        yield from ((("", name), node) for name, node in self.nodes.items())
        for function, nodes in self.functions.items():
            yield from (((function, name), node) for name, node in nodes.items())

    def runs(self, tensors: Iterable[str]) -> frozenset[Place]:
        """Return the nodes that run when ``tensors`` or operations of the graph are requested."""
        found: set[Place] = set()
        called: list[str] = []
        pending = [node_name(name) for name in tensors]
        while pending:
            name = pending.pop()
            if ("", name) in found or name not in self.nodes:
                continue
            found.add(("", name))
            called += functions_of(self.nodes[name])
            pending += map(node_name, self.nodes[name].input)
        entered: set[str] = set()
        while called:
            function = called.pop()
            if function in entered or function not in self.functions:
                continue
            entered.add(function)
            called += self.substitutes.get(function, ())
            for name, node in self.functions[function].items():
                found.add((function, name))
                called += functions_of(node)
        return frozenset(found)

    def node(self, place: Place) -> pb.NodeDef:
        """Return the node at ``place``."""
        function, name = place
        return self.functions[function][name] if function else self.nodes[name]


def node_name(tensor: str) -> str:
    """Return the name of the node that a tensor's name or a control dependency refers to."""
    return tensor.removeprefix("^").partition(":")[0]


def functions_of(node: pb.NodeDef) -> list[str]:
    """Return the functions that a node may call: its operation's name, and the functions in its attributes."""
    called = (function.name for value in _attributes(node) for function in (value.func, *value.list.func))
    return [name for name in (node.op, *called) if name]


def _attributes(node: pb.NodeDef) -> Iterator[pb.AttrValue]:
    """Yield the attributes of a node, and the attributes of functions in them, which can contain functions too."""
    pending = list(node.attr.values())
    while pending:
        value = pending.pop()
        yield value
        for function in (value.func, *value.list.func):
            pending += function.attr.values()


def _check_written_out(function: str, nodes: Iterable[pb.NodeDef]) -> None:
    """Reject attributes that the caller of a function fills in, because their value differs between calls.

    Source: ``core/framework/function.cc`` (``InstantiateFunction``) of TensorFlow 2.21.
    """
    for node in nodes:
        if any(value.placeholder for value in _attributes(node)):
            raise ModelCode.AMBIGUOUS.error(
                f"The model is ambiguous: the node {node.name!r} of the function {function!r} takes an attribute from "
                "the function's callers.",
                hint="Export the model again with TensorFlow 2, which writes all attributes in full.",
            )


def _by_name(nodes: Iterable[pb.NodeDef], what: str) -> dict[str, pb.NodeDef]:
    listed = list(nodes)
    _check_unique((node.name for node in listed), what)
    return {node.name: node for node in listed}


def _check_unique(names: Iterable[str], what: str) -> None:
    counted = Counter(names)
    if "" in counted:
        raise ModelCode.AMBIGUOUS.error(
            f"The model is ambiguous: some of its {what} have no name.", hint="Export the model again with TensorFlow."
        )
    repeated = sorted(name for name, count in counted.items() if count > 1)
    if repeated:
        raise ModelCode.AMBIGUOUS.error(
            f"The model is ambiguous: several of its {what} have the same name, {repeated[0]!r}.",
            hint="Export the model again with TensorFlow.",
        )


def _substitutes(library: pb.FunctionDefLibrary) -> dict[str, frozenset[str]]:
    """Return, for each function, its gradient function and the functions that implement the same interface."""
    implementing: dict[bytes, set[str]] = {}
    for function in library.function:
        if interface := function.attr[_IMPLEMENTS].s if _IMPLEMENTS in function.attr else b"":
            implementing.setdefault(interface, set()).add(function.signature.name)
    found: dict[str, set[str]] = {}
    for names in implementing.values():
        for name in names:
            found.setdefault(name, set()).update(names - {name})
    for gradient in library.gradient:
        found.setdefault(gradient.function_name, set()).add(gradient.gradient_func)
    return {name: frozenset(others) for name, others in found.items()}
