"""Operations that wait for another request, and that TensorFlow cannot stop, at a deadline or at a shutdown.

A run that reaches such an operation would block its thread forever. These operations also pass the data of a request to
another request. Queues, barriers, accumulators and mutexes wait too, but TensorFlow stops them at the deadline.

Source: tensorflow/tensorflow 2.21, ``tensorflow/core/kernels/stage_op.cc`` and ``map_stage_op.cc``, which wait on a
condition variable without a cancellation callback.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sealserve.serving.runtime.graph_reach import needed_operations
from sealserve.serving.runtime.graph_walk import by_name, functions_in, functions_of, walk
from sealserve.serving.runtime.protos import MetaGraphDef

SPEC_VERSION: Final = "2.21"

UNSTOPPABLE_OPERATIONS: Final = frozenset(
    {
        *("Stage", "Unstage", "StagePeek"),
        *("MapStage", "MapUnstage", "MapUnstageNoKey", "MapPeek"),
        *("OrderedMapStage", "OrderedMapUnstage", "OrderedMapUnstageNoKey", "OrderedMapPeek"),
    }
)


def unstoppable_signatures(meta_graph: MetaGraphDef) -> Mapping[str, str]:
    """Return, for each signature that reaches such an operation, the type of the operation."""
    nodes, functions = by_name(meta_graph.graph_def.node), functions_in(meta_graph.graph_def)
    if not _has_any(nodes.values()) and not any(_has_any(function.node_def) for function in functions.values()):
        return {}
    found = {}
    for name, signature in meta_graph.signature_def.items():
        reached = _reached(nodes, functions, signature)
        if reached:
            found[name] = min(reached)
    return found


def _has_any(nodes: Any) -> bool:
    return any(node.op in UNSTOPPABLE_OPERATIONS for node in nodes)


def _reached(nodes: Mapping[str, Any], functions: Mapping[str, Any], signature: Any) -> set[str]:
    """Return the types of such operations that run to compute the outputs of ``signature`` from its inputs."""
    inputs, outputs = ([info.name for info in tensors.values()] for tensors in (signature.inputs, signature.outputs))
    needed = [nodes[name] for name in needed_operations(nodes, inputs, outputs)]

    def called(body: Iterable[Any]) -> list[str]:
        return [name for node in body for name in functions_of(node, functions)]

    bodies = [functions[name].node_def for name in walk(called(needed), lambda name: called(functions[name].node_def))]
    return {node.op for body in (needed, *bodies) for node in body} & UNSTOPPABLE_OPERATIONS
