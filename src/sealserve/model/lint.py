"""Lint of models: what a model could reach outside of the enclave, and what a request could leave for other clients.

A SavedModel is a program, and the owner may not know its author. The lint judges what TensorFlow executes:

1. The graph: the one whose set of tags is served. A SavedModel with two such graphs is rejected, so that the choice
   does not depend on their order. The other graphs are judged too, because a setting could make a server load them.
2. The operations: each operation has a class (`sealserve.model.operations`), which defines where a model may have it.
   An operation without a class is rejected.
3. The nodes that loading runs (`sealserve.model.loading_runs`), and the nodes that a request runs, including
   functions.
4. The files: loading reads only files that the server names, assets and variables (`sealserve.model.file_names`).
5. The constants and variables: only numbers and strings. A handle or an object could belong to another request.

docs/reference/model-lint.md lists the classes, and what the lint does not prevent.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.errors import InputError
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.expected_failures import expected_failures
from sealserve.model.file_names import foreign_files
from sealserve.model.loading_runs import loading_runs, request_tensors
from sealserve.model.operations import TENSORFLOW_VERSION, Allowed, class_of, library_of
from sealserve.model.program import Place, Program, node_name
from sealserve.model.saved_model import SERVE_TAGS, plain_files, read_saved_model, serving_meta_graph
from sealserve.model.unread_fields import unread_field

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
"""Operations that create tensors from stored bytes, and the attribute with the tensors' types."""
_VECTORS: Final = {
    "BatchSelfAdjointEigV2": "compute_v",
    "BatchSvd": "compute_uv",
    "Eig": "compute_v",
    "SelfAdjointEigV2": "compute_v",
    "Svd": "compute_uv",
}
"""Operations that leave their vectors unwritten unless the attribute is true, which is the default."""
_LOGGED: Final = {"RegexFullMatch": (1,), "RegexReplace": (1, 2)}
"""Operations that print inputs to standard error if they are invalid, and the indexes of these inputs.

TensorFlow's log level does not affect the library that prints, RE2 (``re2/re2.cc``).
"""
_REMEMBERED: Final = {"MutableDenseHashTable": (0,), "MutableDenseHashTableV2": (0, 1)}
"""Operations that store inputs when their first run creates the resource, and the indexes of these inputs.

A table stores its reserved keys, and rejects each look-up of such a key. So the next client could test guesses of an
input of the first client. Source: ``core/kernels/lookup_table_op.cc`` (``MutableDenseHashTable``) of TensorFlow 2.21.
"""
_REMEMBERS: Final = "stores its reserved keys at its first run, and a request can set the keys"
_PRINTS: Final = "prints its pattern to standard error if the pattern is invalid, and a request can set the pattern"
_SEEDS: Final = ("seed", "seed2")
_SEEDED: Final = (
    "draws random numbers from a fixed seed, so the numbers show a client how many numbers earlier requests drew"
)
_HOLDS_A_HANDLE: Final = "stores or creates a handle or an object, which could belong to another request"


class RefusedOperationError(InputError):
    """A model has operations that can reach outside of the enclave, store a client's data, or are not TensorFlow's.

    Args:
        folder: The SavedModel.
        findings: The rejected operations, each with its reason.
    """

    code = "model.refused-operation"

    def __init__(self, folder: Path, findings: "Collection[RefusedOperation]") -> None:
        listed = "; ".join(map(str, findings))
        hint = (
            "Export the model without them, or allow them by name in the model's dangerous_operations. Then data that "
            "they write, print or send leaves the enclave, and data that they store can reach other clients."
        )
        if all(finding.custom for finding in findings):
            hint = (
                "Export the model without them. The embedded server loads only TensorFlow's own library. Allowing them "
                'in dangerous_operations helps only with server.kind = "tensorflow-serving", whose binary contains '
                "TensorFlow Text and Decision Forests."
            )
        super().__init__(f"{folder} has operations that are not allowed: {listed}.", hint=hint)
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedOperation:
    """An operation that the lint rejects.

    Args:
        operation: The operation's name.
        reason: The effect of the operation, as the rest of a sentence that begins with its name.
        nodes: Some of its nodes. A node of a function is written as the function's name, a slash, and the node's name.
        custom: Whether the operation is not part of TensorFlow itself.
    """

    operation: str
    reason: str
    nodes: tuple[str, ...]
    custom: bool = False

    def __str__(self) -> str:
        return f"{self.operation} {self.reason} (at {', '.join(self.nodes)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintedModel:
    """A SavedModel that passed the lint.

    Args:
        folder: The SavedModel.
        allowed: The operations that the lint would reject, but that were allowed by name.
        unused: The names that were allowed, but that the model does not need.
        warnings: Sentences about failures to expect at the first request.
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
    """Check that the SavedModel in ``folder`` has no rejected operation, except operations that are allowed by name.

    Args:
        folder: The SavedModel.
        dangerous_operations: Names of operations that are allowed in spite of the lint.
        tags: The tags of the graph that is served.
        custom_operations: Whether the server has libraries besides TensorFlow. Without them, an operation that
            TensorFlow does not have is rejected even if its name is allowed, because the model could not be loaded.

    Raises:
        RefusedOperationError: The model has rejected operations; the message names each with its reason.
        InputError: `model.missing`: The folder does not exist.
        InputError: `model.not-a-saved-model`: The folder has no readable ``saved_model.pb``.
        InputError: `model.no-serve-tag`: No graph has these tags.
        InputError: `model.ambiguous`: Two readers could see different models.
        InputError: `model.asset-name`: The name of an asset is not a plain file name in the ``assets`` folder.
        InputError: `model.unusable-file`: The folder contains a link to a folder, a socket, or the like.
    """
    message = read_saved_model(folder)
    findings = find(folder, message, tags=tags)
    _refuse(folder, findings, dangerous_operations, custom_operations=custom_operations)
    plain_files(folder)
    found = {finding.operation for finding in findings}
    served = serving_meta_graph(folder, message, tags)
    return LintedModel(
        folder=folder,
        allowed=tuple(findings),
        unused=tuple(sorted(set(dangerous_operations) - found)),
        warnings=tuple(expected_failures(folder, served, Program.of(served))),
    )


def lint_loaded(
    folder: Path,
    meta_graph: bytes,
    *,
    dangerous_operations: Collection[str] = (),
    tags: Collection[str] = SERVE_TAGS,
) -> None:
    """Check the graph that TensorFlow loaded, as `lint` checks a file.

    A file can change between two reads of it. The graph in memory is the graph that requests run.

    Args:
        folder: The SavedModel, for messages.
        meta_graph: The ``MetaGraphDef`` that TensorFlow returned.
        dangerous_operations: Names of operations that are allowed in spite of the lint.
        tags: The tags of the graph that is served.

    Raises:
        RefusedOperationError: The graph has rejected operations.
        InputError: As `lint`.
    """
    message = pb.SavedModel(meta_graphs=[pb.MetaGraphDef.FromString(meta_graph)])
    if unread_field(message):
        raise ModelCode.AMBIGUOUS.error(
            f"{folder} was loaded with a field that only some protobuf libraries read.",
            hint="Export the model again with TensorFlow, which never writes this form.",
        )
    _refuse(folder, find(folder, message, tags=tags), dangerous_operations, custom_operations=False)


def _refuse(
    folder: Path,
    findings: Collection[RefusedOperation],
    dangerous_operations: Collection[str],
    *,
    custom_operations: bool,
) -> None:
    refused = [
        finding
        for finding in findings
        if finding.operation not in dangerous_operations or (finding.custom and not custom_operations)
    ]
    if refused:
        raise RefusedOperationError(folder, refused)


def find(folder: Path, message: pb.SavedModel, *, tags: Collection[str] = SERVE_TAGS) -> list[RefusedOperation]:
    """Return the rejected operations of a SavedModel, sorted by name. Errors: see `lint`.

    Args:
        folder: The SavedModel, for messages.
        message: Its content.
        tags: The tags of the graph that is served.
    """
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
    """The nodes of a meta graph that run.

    Args:
        loading: The nodes that loading runs.
        requested: The nodes that a request can run.
        misused: The nodes that are dangerous because of their inputs or attributes, each with the reason.
    """

    loading: frozenset[Place]
    requested: frozenset[Place]
    misused: Mapping[Place, str]


def _judge(graph: pb.MetaGraphDef, *, is_served: bool) -> Iterator[tuple[Place, str, str]]:
    """Yield each rejected node, with the name of its operation and the reason."""
    program = Program.of(graph)
    loads = loading_runs(graph)
    # clients reach only the served graph; in a graph for training, signatures may change variables
    requested = program.runs(request_tensors(graph)) if is_served else frozenset()
    fed = {node_name(name) for name in request_tensors(graph)}
    foreign = (found for run in loads for found in foreign_files(program, run))
    runs = _Runs(
        loading=program.runs(target for run in loads for target in run.targets),
        requested=requested,
        misused={
            **{found.place: f"reads {found.file}, which is not sealed with the model" for found in foreign},
            **dict.fromkeys(_with_variable_input(program, _LOGGED, fed), _PRINTS),
            **dict.fromkeys(_with_variable_input(program, _REMEMBERED, fed) if is_served else (), _REMEMBERS),
            **dict.fromkeys(filter(lambda place: _is_seeded(program.node(place)), requested), _SEEDED),
        },
    )
    for place, node in program.all_nodes():
        if node.op not in program.functions and (reason := _reason(place, node, runs)):
            yield place, node.op, reason


def _reason(place: Place, node: pb.NodeDef, runs: _Runs) -> str | None:
    """Return why a node is rejected, or None if it is accepted."""
    found = class_of().get(node.op)
    if found is None:
        return _unknown(node.op)
    if node.op in _VECTORS and (_VECTORS[node.op] not in node.attr or node.attr[_VECTORS[node.op]].b):
        return None  # the operation writes all of its outputs
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


def _with_variable_input(
    program: Program, inputs: Mapping[str, Collection[int]], requested: Collection[str]
) -> Iterator[Place]:
    """Yield the nodes with an input that is not a constant of the model. A client can feed a tensor in a signature.

    Args:
        program: The program.
        inputs: The indexes of the inputs that must be constants, by the operation's name.
        requested: The names of the nodes in signatures.
    """
    for (function, name), node in program.all_nodes():
        nodes = program.functions[function] if function else program.nodes
        fed = () if function else requested
        for index in inputs.get(node.op, ()):
            source = nodes.get(node_name(node.input[index])) if index < len(node.input) else None
            if source is None or source.op != "Const" or source.name in fed:
                yield (function, name)


def _is_seeded(node: pb.NodeDef) -> bool:
    """Return whether a node draws the same sequence of numbers in each process."""
    draws = node.op in class_of() and class_of()[node.op].name == "draws"
    return draws and any(node.attr[key].i for key in _SEEDS if key in node.attr)


def _holds_a_handle(node: pb.NodeDef, kind: str) -> bool:
    """Return whether a node creates a handle from stored bytes, or stores one in a variable, a table or a queue.

    A handle that loading stores would make a resource of one run, such as an iterator, available to all requests.
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
        else f"is not an operation of TensorFlow {TENSORFLOW_VERSION}: it needs a library whose code was not reviewed"
    )


def _some(places: Iterable[str], most: int = 3) -> tuple[str, ...]:
    listed = sorted(set(places))
    return (*listed[:most], *([f"{len(listed) - most} more"] if len(listed) > most else []))
