"""Looks for what a model could reach outside of the enclave, and for what one request could leave to another client's.

A SavedModel is a program, written by somebody whom the owner may not know. The lint judges what TensorFlow executes:

1. Which graph: the one whose set of tags is served. A SavedModel with two such graphs is refused, so the choice does
   not depend on their order. The other graphs are judged as well, since a setting could make a server load them.
2. Which operations: each of them has a class (`sealserve.model.operations`), which says where a model may have it. An
   operation without a class is refused.
3. Which nodes run: what loading runs (`sealserve.model.loading_runs`) and what a request runs, functions included.
4. Which files: loading reads only those that the server names, assets and variables (`sealserve.model.file_names`).
5. Which constants and variables: numbers and strings. A handle or an object could be that of another request.

docs/reference/model-lint.md lists the classes, and what the lint does not prevent.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.errors import InputError
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.expected_failures import expected_failures
from sealserve.model.file_names import foreign_files
from sealserve.model.loading_runs import loading_runs, request_tensors
from sealserve.model.operations import TENSORFLOW_VERSION, Allowed, class_of, library_of
from sealserve.model.program import Place, Program, node_name
from sealserve.model.saved_model import SERVE_TAGS, plain_files, read_saved_model, serving_meta_graph

_HANDLES: Final = (pb.DT_RESOURCE, pb.DT_VARIANT)
_STATE: Final = {"reads-state", "keeps"}
_TYPE_ATTRIBUTES: Final = {
    "Const": "dtype",
    "DeserializeManySparse": "dtype",
    "DeserializeSparse": "dtype",
    "HostConst": "dtype",
    "ParseTensor": "out_type",
    "Restore": "dt",
    "RestoreSlice": "dt",
    "RestoreV2": "dtypes",
}
"""Operations that make tensors from stored bytes, and the attribute that has the tensors' types."""
_VECTORS: Final = {
    "BatchSelfAdjointEigV2": "compute_v",
    "BatchSvd": "compute_uv",
    "Eig": "compute_v",
    "SelfAdjointEigV2": "compute_v",
    "Svd": "compute_uv",
}
"""Operations that leave their vectors unwritten unless the attribute is true, which is its default."""
_LOGGED: Final = {"RegexFullMatch": (1,), "RegexReplace": (1, 2)}
"""Operations that print some of their inputs to standard error if these are invalid, and the places of those inputs.

TensorFlow's log level does not reach the library that prints, RE2 (``re2/re2.cc``).
"""
_PRINTS: Final = "prints its pattern to standard error if it is invalid, and a request can decide the pattern"
_SEEDS: Final = ("seed", "seed2")
_SEEDED: Final = "draws random numbers from a fixed seed, so they tell the next client how many an earlier request drew"
_HOLDS_A_HANDLE: Final = "keeps or makes a handle or an object, which could be that of another request"


class RefusedOperationError(InputError):
    """A model has operations that can reach outside of the enclave, keep a client's data, or are unknown to TensorFlow.

    Args:
        folder: The SavedModel.
        findings: What was found, each with its reason.
    """

    code = "model.refused-operation"

    def __init__(self, folder: Path, findings: "Collection[RefusedOperation]") -> None:
        listed = "; ".join(map(str, findings))
        hint = (
            "Export the model without them; or name them in its dangerous_operations: what they write, print or send "
            "leaves the enclave, and what they keep can reach other clients."
        )
        if all(finding.custom for finding in findings):
            hint = (
                "Export the model without them. The embedded server loads no other library, so naming them in "
                'dangerous_operations helps only with server.kind = "tensorflow-serving", whose binary has TensorFlow '
                "Text and Decision Forests."
            )
        super().__init__(f"{folder} has operations that are refused: {listed}.", hint=hint)
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedOperation:
    """An operation that is refused.

    Args:
        operation: Its name.
        reason: What it does, as the rest of a sentence.
        nodes: Some of the nodes that are such operations; those of a function after its name and a slash.
        custom: Whether TensorFlow itself does not have it.
    """

    operation: str
    reason: str
    nodes: tuple[str, ...]
    custom: bool = False

    def __str__(self) -> str:
        return f"{self.operation} {self.reason} (at {', '.join(self.nodes)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintedModel:
    """A SavedModel in which nothing is refused.

    Args:
        folder: The SavedModel.
        allowed: What would have been refused, and was allowed.
        unused: What was allowed, and is not there.
        warnings: What will fail at the first request, as sentences.
    """

    folder: Path
    allowed: tuple[RefusedOperation, ...]
    unused: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def lint(
    folder: Path,
    *,
    dangerous_operations: Collection[str] = (),
    tags: Collection[str] = SERVE_TAGS,
    custom_operations: bool = False,
) -> LintedModel:
    """Make sure that the SavedModel in ``folder`` has no operation that is refused, except those that are allowed.

    Args:
        folder: The SavedModel.
        dangerous_operations: Names of operations that are allowed all the same.
        tags: The tags of the graph that is served.
        custom_operations: Whether the server has libraries beside TensorFlow. Without them, an operation that
            TensorFlow does not have is refused even if its name is allowed, since the model could not be loaded.

    Raises:
        RefusedOperationError: It has; the message names each, and why.
        InputError: `model.missing`: There is no such folder.
        InputError: `model.not-a-saved-model`: It holds no readable ``saved_model.pb``.
        InputError: `model.no-serve-tag`: No graph has these tags.
        InputError: `model.ambiguous`: It can be read in two ways.
        InputError: `model.asset-name`: The name of an asset leads out of the ``assets`` folder.
        InputError: `model.unusable-file`: It holds a link to a folder, a socket, or the like.
    """
    findings = find(folder, tags=tags)
    refused = [
        finding
        for finding in findings
        if finding.operation not in dangerous_operations or (finding.custom and not custom_operations)
    ]
    if refused:
        raise RefusedOperationError(folder, refused)
    plain_files(folder)
    found = {finding.operation for finding in findings}
    served = serving_meta_graph(folder, read_saved_model(folder), tags)
    return LintedModel(
        folder=folder,
        allowed=tuple(findings),
        unused=tuple(sorted(set(dangerous_operations) - found)),
        warnings=tuple(expected_failures(folder, served, Program.of(served))),
    )


def find(folder: Path, *, tags: Collection[str] = SERVE_TAGS) -> list[RefusedOperation]:
    """Return what is to be refused in the SavedModel in ``folder``, sorted by name; errors as in `lint`."""
    message = read_saved_model(folder)
    served = serving_meta_graph(folder, message, tags)
    findings: dict[tuple[str, str], list[str]] = {}
    for graph in message.meta_graphs:
        for place, operation, reason in _judge(graph, is_served=graph is served):
            findings.setdefault((operation, reason), []).append("/".join(filter(None, place)))
    return [
        RefusedOperation(operation=operation, reason=reason, nodes=_some(places), custom=operation not in class_of())
        for (operation, reason), places in sorted(findings.items())
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """What runs of a meta graph.

    Args:
        loading: The nodes that loading runs.
        requested: The nodes that a request can run.
        misused: The nodes whose inputs or attributes make them dangerous, each with the reason.
    """

    loading: frozenset[Place]
    requested: frozenset[Place]
    misused: Mapping[Place, str]


def _judge(graph: pb.MetaGraphDef, *, is_served: bool) -> Iterator[tuple[Place, str, str]]:
    """Yield each node that is refused, with the name of its operation and the reason."""
    program = Program.of(graph)
    loads = loading_runs(graph)
    # clients reach the served graph only; in a graph for training, signatures change variables
    requested = program.runs(request_tensors(graph)) if is_served else frozenset()
    foreign = (found for run in loads for found in foreign_files(program, run))
    runs = _Runs(
        loading=program.runs(target for run in loads for target in run.targets),
        requested=requested,
        misused={
            **{found.place: f"reads {found.file}, which is not sealed with the model" for found in foreign},
            **dict.fromkeys(_printing(program, {node_name(name) for name in request_tensors(graph)}), _PRINTS),
            **dict.fromkeys(filter(lambda place: _is_seeded(program.node(place)), requested), _SEEDED),
        },
    )
    for place, node in program.all_nodes():
        if node.op not in program.functions and (reason := _reason(place, node, runs)):
            yield place, node.op, reason


def _reason(place: Place, node: pb.NodeDef, runs: _Runs) -> str | None:
    """Return why a node is refused, or None if it is not."""
    found = class_of().get(node.op)
    if found is None:
        return _unknown(node.op)
    if node.op in _VECTORS and (_VECTORS[node.op] not in node.attr or node.attr[_VECTORS[node.op]].b):
        return None  # it writes all of its outputs
    refused = {
        Allowed.ANYWHERE: False,
        Allowed.LOADING: place in runs.requested,
        Allowed.ASSETS: place in runs.requested,
        Allowed.VARIABLES: place in runs.requested,
        Allowed.UNUSED: place in runs.loading or place in runs.requested,
        Allowed.NOWHERE: True,
    }[found.allowed]
    if refused:
        return found.does
    if place in runs.misused:
        return runs.misused[place]
    return _HOLDS_A_HANDLE if _holds_a_handle(node, found.name) else None


def _printing(program: Program, requested: Collection[str]) -> Iterator[Place]:
    """Yield the nodes that may print an input which is not a constant. What a signature names, a client can feed."""
    for (function, name), node in program.all_nodes():
        nodes = program.functions[function] if function else program.nodes
        fed = () if function else requested
        for index in _LOGGED.get(node.op, ()):
            source = nodes.get(node_name(node.input[index])) if index < len(node.input) else None
            if source is None or source.op != "Const" or source.name in fed:
                yield (function, name)


def _is_seeded(node: pb.NodeDef) -> bool:
    """Return whether a node draws the same sequence of numbers in each process."""
    draws = node.op in class_of() and class_of()[node.op].name == "draws"
    return draws and any(node.attr[key].i for key in _SEEDS if key in node.attr)


def _holds_a_handle(node: pb.NodeDef, kind: str) -> bool:
    """Return whether a node makes a handle of stored bytes, or keeps one in a variable, a table or a queue.

    A handle that loading keeps would make what belongs to one run, such as an iterator, last for all requests.
    """
    if kind in _STATE:
        values = list(node.attr.values())
    else:
        name = _TYPE_ATTRIBUTES.get(node.op)
        values = [node.attr[name]] if name is not None and name in node.attr else []
    return any(found in _HANDLES for value in values for found in (value.type, *value.list.type))


def _unknown(operation: str) -> str:
    library = library_of(operation)
    return (
        f"is not an operation of TensorFlow {TENSORFLOW_VERSION}: it belongs to {library}"
        if library
        else f"is not an operation of TensorFlow {TENSORFLOW_VERSION}: it needs a library whose code nobody looked at"
    )


def _some(places: Iterable[str], most: int = 3) -> tuple[str, ...]:
    listed = sorted(set(places))
    return (*listed[:most], *([f"{len(listed) - most} more"] if len(listed) > most else []))
