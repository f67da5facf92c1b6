"""Checks of frozen graphs (``.pb``): whether a file is a frozen graph, and whether it has the named nodes.

The checks run before TensorFlow is imported, so that a wrong name is reported immediately. Source of the file's layout:
TensorFlow's ``graph.proto`` and ``node_def.proto``.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from sealserve.errors import SealserveError
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.saved_model import LARGEST_MESSAGE, SAVED_MODEL_FILE, VARIABLE_OPERATIONS
from sealserve.regular_file import InputFileMissingError, read_regular

_SHOWN = 5


def read_graph(path: Path) -> pb.GraphDef:
    """Read the graph in the file ``path``.

    Raises:
        InputError: `model.missing`: The file does not exist.
        InputError: `model.not-a-graph`: The file is not a GraphDef, or its graph has no nodes.
    """
    message = pb.GraphDef()
    try:
        message.ParseFromString(read_regular(path, limit=LARGEST_MESSAGE))
    except InputFileMissingError as error:
        raise ModelCode.MISSING.error(
            f"The model {path} does not exist.", hint="Give the path of a frozen graph (.pb) or a SavedModel folder."
        ) from error
    except DecodeError as error:
        raise _not_a_graph(path) from error
    if not message.node or not all(node.name and node.op for node in message.node):
        raise _not_a_graph(path)
    return message


def check_frozen(graph: pb.GraphDef, path: Path, *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Check that ``graph`` has the named nodes, and that the outputs do not depend on variables.

    Args:
        graph: The graph.
        path: The graph's path, for error messages.
        inputs: Names of nodes that are fed.
        outputs: Names of nodes that are fetched.

    Raises:
        InputError: `model.no-signature`: ``inputs`` or ``outputs`` is empty.
        InputError: `model.unknown-node`: A node does not exist; the message names the most similar node.
        InputError: `model.not-frozen`: An output depends on a variable, whose value is not in the graph.
    """
    if not inputs or not outputs:
        raise ModelCode.NO_SIGNATURE.error(
            f"The inputs and outputs of {path} are unknown: a frozen graph does not contain them.",
            hint="Name the input and output nodes as model.inputs and model.outputs in sealserve.toml.",
        )
    consumed = {_node_name(source) for node in graph.node for source in node.input}
    sources = [node.name for node in graph.node if node.op == "Placeholder"]
    sinks = [node.name for node in graph.node if node.name not in consumed]
    for kind, names, likely in (("input", inputs, sources), ("output", outputs, sinks)):
        for name in names:
            _check_node(graph, path, name, kind=kind, likely=likely)
    needed = reachable(graph, outputs)
    for node in graph.node:
        if node.name in needed and node.op in VARIABLE_OPERATIONS:
            raise ModelCode.NOT_FROZEN.error(
                f"{path} is not frozen: {node.name!r} is a variable, whose value is not in the graph.",
                hint="Freeze it with convert_variables_to_constants_v2, or give a SavedModel folder.",
            )


def reachable(graph: pb.GraphDef, names: Sequence[str]) -> set[str]:
    """Return the names of all nodes that ``names`` depend on, including ``names``."""
    inputs = {node.name: node.input for node in graph.node}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(map(_node_name, inputs.get(name, ())))
    return found


def _check_node(graph: pb.GraphDef, path: Path, name: str, *, kind: str, likely: Sequence[str]) -> None:
    known = [node.name for node in graph.node]
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    nearest = close[0] if close else ", ".join(repr(each) for each in likely[:_SHOWN])
    hint = f"Did you mean {nearest!r}?" if close else f"Its likely {kind}s: {nearest}." if likely else None
    raise ModelCode.UNKNOWN_NODE.error(f"{path} does not have a node {name!r}, which is named as an {kind}.", hint=hint)


def _node_name(source: str) -> str:
    return source.removeprefix("^").split(":", 1)[0]


def _not_a_graph(path: Path) -> SealserveError:
    if path.name == SAVED_MODEL_FILE:
        return ModelCode.NOT_A_GRAPH.error(
            f"{path} is not a frozen graph: it belongs to a SavedModel.", hint=f"Give the folder {path.parent}."
        )
    return ModelCode.NOT_A_GRAPH.error(
        f"{path} is not a frozen graph: it is not a GraphDef in binary form.",
        hint="Give a GraphDef in binary form (.pb), or a SavedModel folder.",
    )
