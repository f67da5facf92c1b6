"""A SavedModel as a graph without the variables that requests read: their values become constants.

Only constants can be folded, and oneDNN arranges the weights of a convolution once instead of at each request only if
they are constants. Variables that only loading uses, such as the path of a vocabulary, stay variables.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.loading_runs import asset_tensors, loading_runs, request_tensors, tensor_name
from sealserve.model.optimization.passes import Interface, inlined
from sealserve.model.program import Program, node_name
from sealserve.model.saved_model import VARIABLE_OPERATIONS
from sealserve.model.tensorflow_import import import_tensorflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A loaded model without the variables that requests read.

    Args:
        meta_graph: The meta graph as TensorFlow loaded it.
        graph_def: The frozen graph.
        interface: The tensors whose names must stay.
        nodes: Number of nodes that requests run in the original.
        variables: Number of variables that became constants.
    """

    meta_graph: Any
    graph_def: Any
    interface: Interface
    nodes: int
    variables: int


def freeze(folder: str, tags: list[str]) -> Frozen:
    """Load a SavedModel and freeze it.

    Raises:
        Exception: Any exception of TensorFlow.
        ValueError: A variable would remain that requests read.
    """
    tf = import_tensorflow()
    from tensorflow.python.framework.convert_to_constants import (  # noqa: PLC0415  # TensorFlow is optional
        convert_variables_to_constants_from_session_graph,
    )

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, tags, folder)
        served = pb.MetaGraphDef.FromString(loaded.SerializeToString())
        program, interface = Program.of(served), _interface(served)
        requested = program.runs(request_tensors(served))
        # The converter skips some operations in functions, such as ResourceGather.
        flat = inlined(loaded.graph_def, interface)
        graph_def = convert_variables_to_constants_from_session_graph(
            session,
            flat,
            sorted(interface.nodes),
            variable_names_denylist=[
                name
                for name, node in program.nodes.items()
                if node.op in VARIABLE_OPERATIONS and ("", name) not in requested
            ],
        )
    served.graph_def.ParseFromString(graph_def.SerializeToString())
    frozen = Program.of(served)
    for place in sorted(frozen.runs(request_tensors(served))):
        if frozen.node(place).op in VARIABLE_OPERATIONS:
            raise ValueError(f"the variable {place[1]!r} cannot become a constant")
    variables = sum(program.node(place).op in VARIABLE_OPERATIONS for place in requested)
    return Frozen(
        meta_graph=loaded, graph_def=graph_def, interface=interface, nodes=len(requested), variables=variables
    )


def _interface(graph: pb.MetaGraphDef) -> Interface:
    """Return the tensors of all signatures, of the assets and of the initializer."""
    initialise = loading_runs(graph)[-1]
    nodes = {node.name for node in graph.graph_def.node}
    inputs = {tensor_name(name) for name in _names(graph, "inputs")}
    return Interface(
        fed=tuple(sorted({*inputs, *asset_tensors(graph)})),
        fetched=tuple(sorted({tensor_name(name) for name in _names(graph, "outputs")})),
        targets=tuple(sorted({node_name(name) for name in initialise.targets if node_name(name) in nodes})),
    )


def _names(graph: pb.MetaGraphDef, kind: str) -> Iterator[str]:
    """Yield the names of the tensors that requests feed or fetch."""
    fed_or_fetched = set(request_tensors(graph))
    for signature in graph.signature_def.values():
        pending = list(getattr(signature, kind).values())
        while pending:
            info = pending.pop()
            sparse = info.coo_sparse
            names = (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
            yield from (name for name in names if name and name in fed_or_fetched)
            pending += info.composite_tensor.components
