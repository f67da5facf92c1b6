"""Looks for operations that reach outside of the enclave: what they write, print or send is seen by the host.

A SavedModel is code. Its operations are looked up by name: those of its graph for serving and of every function there.
Operations that load or save a model stand in each SavedModel; they are refused where a signature reaches them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import InputError
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.operations import REFUSED, REFUSED_IN_SIGNATURES, TENSORFLOW_VERSION, known_operations
from sealserve.model.saved_model import INTERNAL_SIGNATURES, read_saved_model, serving_meta_graph

_Place = tuple[str, str]
"""A node: the function that it is in, or nothing for the graph itself, and its name."""

_CUSTOM = f"is none of TensorFlow {TENSORFLOW_VERSION}'s: it needs a library whose code nobody looked at"


class RefusedOperationError(InputError):
    """A model has operations that reach outside of the enclave, or that TensorFlow does not have.

    Args:
        folder: The SavedModel.
        findings: What was found, each with its reason.
    """

    code = "model.refused-operation"

    def __init__(self, folder: Path, findings: "Collection[RefusedOperation]") -> None:
        listed = "; ".join(map(str, findings))
        super().__init__(
            f"{folder} has operations that are refused: {listed}.",
            hint="Export the model without them; or name them in its dangerous_operations: what they write, print or "
            "send leaves the enclave.",
        )
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedOperation:
    """An operation that is refused.

    Args:
        operation: Its name.
        reason: What it does, as the rest of a sentence.
        nodes: Some of the nodes that are such operations; those of a function after its name and a slash.
    """

    operation: str
    reason: str
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.operation} {self.reason} (at {', '.join(self.nodes)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintedModel:
    """A SavedModel in which nothing is refused.

    Args:
        folder: The SavedModel.
        allowed: What would have been refused, and was allowed.
        unused: What was allowed, and is not there.
    """

    folder: Path
    allowed: tuple[RefusedOperation, ...]
    unused: tuple[str, ...]


def lint(folder: Path, *, dangerous_operations: Collection[str] = ()) -> LintedModel:
    """Make sure that the SavedModel in ``folder`` has no operation that reaches outside, but those allowed.

    Args:
        folder: The SavedModel.
        dangerous_operations: Names of operations that are allowed all the same.

    Raises:
        RefusedOperationError: It has; the message names each, and why.
        ModelMissingError: There is no such folder.
        NotASavedModelError: It holds no readable ``saved_model.pb``.
        ServeTagMissingError: No graph is meant for serving.
    """
    findings = find(folder)
    refused = [finding for finding in findings if finding.operation not in dangerous_operations]
    if refused:
        raise RefusedOperationError(folder, refused)
    found = {finding.operation for finding in findings}
    unused = tuple(sorted(set(dangerous_operations) - found))
    return LintedModel(folder=folder, allowed=tuple(findings), unused=unused)


def find(folder: Path) -> list[RefusedOperation]:
    """Return what is to be refused in the SavedModel in ``folder``, sorted by name; errors as in `lint`."""
    graph = serving_meta_graph(folder, read_saved_model(folder))
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    started = set(_started(graph, functions))
    reasons: dict[str, str] = {}
    places: dict[str, list[str]] = {}
    for place, node in _all_nodes(graph):
        reason = REFUSED.get(node.op)
        if reason is None and place in started:
            reason = REFUSED_IN_SIGNATURES.get(node.op)
        if reason is None and node.op not in functions and node.op not in known_operations():
            reason = _CUSTOM
        if reason is not None:
            reasons[node.op] = reason
            places.setdefault(node.op, []).append("/".join(filter(None, place)))
    return [
        RefusedOperation(operation=name, reason=reasons[name], nodes=_some(places[name])) for name in sorted(reasons)
    ]


def _all_nodes(graph: pb.MetaGraphDef) -> Iterator[tuple[_Place, pb.NodeDef]]:
    yield from ((("", node.name), node) for node in graph.graph_def.node)
    for function in graph.graph_def.library.function:
        yield from (((function.signature.name, node.name), node) for node in function.node_def)


def _started(graph: pb.MetaGraphDef, functions: Mapping[str, pb.FunctionDef]) -> Iterator[_Place]:
    """Yield the nodes that a request can start: what signatures' outputs depend on, and all of the functions there."""
    nodes = {node.name: node for node in graph.graph_def.node}
    pending = [_node_name(name) for name in _signature_tensors(graph)]
    seen = set(pending)
    called: list[str] = []
    while pending:
        node = nodes.get(pending.pop())
        if node is None:
            continue
        yield "", node.name
        called += _functions_of(node)
        new = {_node_name(name) for name in node.input} - seen
        seen |= new
        pending += new
    entered: set[str] = set()
    while called:
        name = called.pop()
        if name in entered or name not in functions:
            continue
        entered.add(name)
        for node in functions[name].node_def:
            yield name, node.name
            called += _functions_of(node)


def _signature_tensors(graph: pb.MetaGraphDef) -> Iterator[str]:
    for name, signature in graph.signature_def.items():
        if name in INTERNAL_SIGNATURES:  # what loading runs
            continue
        pending = [*signature.inputs.values(), *signature.outputs.values()]  # an input may be any node
        while pending:
            info = pending.pop()
            sparse = info.coo_sparse
            yield from filter(
                None,
                (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name),
            )
            pending += info.composite_tensor.components


def _functions_of(node: pb.NodeDef) -> list[str]:
    """Return the functions that a node may call: the one that it is named after, and those that it takes."""
    names = [node.op]
    for value in node.attr.values():
        names += [value.func.name, *(function.name for function in value.list.func)]
    return names


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _some(places: Iterable[str], most: int = 3) -> tuple[str, ...]:
    listed = sorted(places)
    return (*listed[:most], *([f"{len(listed) - most} more"] if len(listed) > most else []))
