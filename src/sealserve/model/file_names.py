"""Determines the origin of the names of files that loading a model reads.

A name is accepted if it is exactly a path that the loader feeds: the path of the variables, or of an asset. The name is
traced back through identities, function arguments, and variables that only ever hold such a path (TensorFlow 2's
exporter stores the path of an asset in a variable). Any other name is chosen by the model, and is rejected.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.loading_runs import FedFile, LoadingRun, tensor_name
from sealserve.model.operations import Allowed, class_of
from sealserve.model.program import Place, Program, functions_of, node_name

_CALLS: Final = {"PartitionedCall", "StatefulPartitionedCall"}
_FILE_NAME_INPUT: Final = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}
_READS: Final = {"ReadVariableOp", "VarIsInitializedOp"}
_ASSIGN_INPUTS: Final = 2
_EXPECTED: Final = {Allowed.ASSETS: FedFile.ASSET, Allowed.VARIABLES: FedFile.VARIABLES}
_COMPUTED: Final = "a file whose name the model computes"

_Origin = FedFile | str
"""The origin of a tensor: a file that the loader feeds, or else a description of the file that the tensor names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFile:
    """A node that reads a file that is not sealed with the model.

    Args:
        place: The node.
        file: A description of the file, for messages.
    """

    place: Place
    file: str


def foreign_files(program: Program, run: LoadingRun) -> Iterator[ForeignFile]:
    """Yield each node of the run that reads a file other than the assets or variables that its class allows."""
    places = sorted(program.runs(run.targets))
    graph = _Body(nodes=program.nodes, known={**run.feeds, **_path_variables(program, run)})
    bodies = {"": graph, **_called(program, graph, [program.nodes[name] for function, name in places if not function])}
    for function, name in places:
        node = program.node((function, name))
        known = class_of().get(node.op)
        if known and (expected := _EXPECTED.get(known.allowed)):
            inputs = _data_inputs(node)
            index = _FILE_NAME_INPUT.get(node.op, 0)
            # a function that the analysis could not enter has no body in `bodies`
            followed = function in bodies and index < len(inputs)
            found = bodies[function].origin(inputs[index]) if followed else _COMPUTED
            if found is not expected:
                yield ForeignFile(place=(function, name), file=str(found))


def _path_variables(program: Program, run: LoadingRun) -> Mapping[str, FedFile]:
    """Return the tensors that read a variable which holds only a path that the loader feeds, each with its origin.

    Such a variable must meet two conditions. All its uses are in the graph itself, and each use reads it or assigns the
    same fed path. No other node creates a handle of the same variable.
    """
    fed = _Body(nodes=program.nodes, known=run.feeds)
    uses: dict[str, list[pb.NodeDef]] = {}
    for node in program.nodes.values():
        for name in _data_inputs(node):
            uses.setdefault(node_name(name), []).append(node)
    handles = Counter(_shared_name(node) for _, node in program.all_nodes() if node.op == "VarHandleOp")
    found: dict[str, FedFile] = {}
    for name, variable in program.nodes.items():
        if variable.op != "VarHandleOp" or handles[_shared_name(variable)] > 1:
            continue
        assigned = set()
        for node in uses.get(name, ()):
            # The inputs of other nodes are not listed: a call can have all variables as inputs.
            inputs = _data_inputs(node) if node.op == "AssignVariableOp" else []
            if len(inputs) == _ASSIGN_INPUTS and node_name(inputs[0]) == name:
                assigned.add(fed.origin(inputs[1]))
            elif node.op not in _READS:
                assigned.add(_COMPUTED)
        if len(assigned) == 1 and isinstance(source := assigned.pop(), FedFile):
            reads = (node.name for node in uses[name] if node.op == "ReadVariableOp")
            found |= {tensor_name(read): source for read in reads}
    return found


def _shared_name(variable: pb.NodeDef) -> bytes:
    """Return the name by which TensorFlow finds the variable. All nodes with an empty name share one variable.

    Source: ``core/kernels/resource_variable_ops.cc`` (``VarHandleOp``) of TensorFlow 2.21.
    """
    return variable.attr["shared_name"].s if "shared_name" in variable.attr else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """The nodes of the graph or of a function, with the known origins of its tensors.

    Args:
        nodes: The nodes by name.
        known: The origins of the graph's tensors, or of a function's arguments, by name.
    """

    nodes: Mapping[str, pb.NodeDef]
    known: Mapping[str, _Origin]

    def origin(self, tensor: str) -> _Origin:
        """Return the origin of a tensor."""
        seen: set[str] = set()
        while tensor not in seen:
            seen.add(tensor)
            if found := self.known.get(tensor_name(tensor)):
                return found
            node = self.nodes.get(node_name(tensor))
            if node is None or node.op != "Identity" or not node.input:
                return _COMPUTED if node is None else _constant(node)
            tensor = node.input[0]
        return _COMPUTED


def _called(program: Program, graph: _Body, ran: Iterable[pb.NodeDef]) -> dict[str, _Body]:
    """Return the functions that the nodes call, directly or indirectly, with the known origins of their arguments.

    An argument that gets different origins in two calls counts as computed.
    """
    bodies: dict[str, _Body] = {}
    pending: list[str] = []

    def call(function: str, origins: Sequence[_Origin] | None) -> None:
        if function not in program.functions:
            return
        names = [tensor_name(name) for name in program.arguments[function]]
        if origins is None or len(origins) != len(names):
            origins = [_COMPUTED] * len(names)
        before = bodies[function].known if function in bodies else {}
        known = {
            name: origin if before.get(name, origin) == origin else _COMPUTED
            for name, origin in zip(names, origins, strict=True)
        }
        if function not in bodies or known != before:
            bodies[function] = _Body(nodes=program.functions[function], known=known)
            pending.append(function)

    def follow(body: _Body, nodes: Iterable[pb.NodeDef]) -> None:
        for node in nodes:
            for function, origins in _calls(program, body, node):
                call(function, origins)

    follow(graph, ran)
    while pending:
        body = bodies[pending.pop()]
        follow(body, body.nodes.values())
    return bodies


def _calls(program: Program, body: _Body, node: pb.NodeDef) -> Iterator[tuple[str, Sequence[_Origin] | None]]:
    """Yield each function that a node may call, with the origins of its arguments, or None if they are unknown."""
    direct = node.attr["f"].func.name if node.op in _CALLS and "f" in node.attr else node.op
    yield direct, [body.origin(name) for name in _data_inputs(node)]
    others = functions_of(node)
    if direct in others:
        others.remove(direct)  # remove it only once: a second occurrence can be called with any arguments
    for name in (*others, *program.substitutes.get(direct, ())):
        yield name, None
        yield from ((other, None) for other in program.substitutes.get(name, ()))


def _data_inputs(node: pb.NodeDef) -> list[str]:
    return [name for name in node.input if not name.startswith("^")]


def _constant(node: pb.NodeDef) -> str:
    values = list(node.attr["value"].tensor.string_val) if node.op == "Const" and "value" in node.attr else []
    return f"the file {values[0].decode(errors='replace')!r}" if len(values) == 1 else _COMPUTED
