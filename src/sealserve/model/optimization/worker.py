"""The process that optimizes a model and compares the result with the original.

Its messages, see `sealserve.model.tensorflow_process`: ``{"step": TEXT}`` before each step, and at the end
``{"done": RESULT}`` or ``{"failed": REASON, "text": TEXT}``.
"""

from pathlib import Path
from typing import Final

from sealserve.atomic_file import NO_ROOM
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.convert import tensorflow_writes
from sealserve.model.loading_runs import request_tensors
from sealserve.model.optimization.freezing import freeze
from sealserve.model.optimization.order import FailedError, Failure, Order
from sealserve.model.optimization.passes import count_in_bfloat16, optimized
from sealserve.model.optimization.trial import compare, first_line
from sealserve.model.program import Program
from sealserve.model.saved_model import LARGEST_MESSAGE, SAVED_MODEL_FILE, SERVE_TAG
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.model.tensorflow_process import Say, messages, read_order
from sealserve.terms import Precision

_KEPT_COLLECTIONS: Final = frozenset({"saved_model_main_op", "legacy_init_op", "saved_model_assets"})
"""Collections of the meta graph that the loader reads. The others describe variables, which do not exist any more."""


def main() -> None:
    """Carry out the order on standard input, and write the messages to standard output."""
    say = messages()
    carry_out(Order(**read_order()), say)


def carry_out(order: Order, say: Say) -> None:
    """Optimize the model, compare it with the original, and say the result."""
    try:
        say(step="loading TensorFlow")
        tensorflow = import_tensorflow()
        say(step="rewriting the graph")
        with tensorflow_writes():
            changes = _write(order)
        say(step="comparing the outputs")
        signatures, skipped = compare(order)
    except FailedError as error:
        say(failed=error.reason, text=str(error))
    except Exception as error:  # noqa: BLE001  # the text is for the model's owner, who started this process
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            say(failed=Failure.NO_ROOM, errno=error.errno)
        else:
            say(failed=Failure.NOT_OPTIMIZABLE, text=f"{type(error).__name__}: {first_line(error)}")
    else:
        agreements = {
            signature: {output: found.model_dump() for output, found in outputs.items()}
            for signature, outputs in signatures.items()
        }
        say(
            done={
                "changes": changes,
                "signatures": agreements,
                "skipped": skipped,
                "tensorflow": tensorflow.__version__,
            }
        )


def _write(order: Order) -> dict[str, int]:
    """Write the optimized SavedModel, and return the changes to the graph."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: PLC0415  # TensorFlow is optional

    precision = Precision(order.precision)
    # 1. Load the model, and turn variables into constants.
    frozen = freeze(order.folder, order.tags)
    # 2. Rewrite the graph.
    graph_def, batch_norms = optimized(frozen.graph_def, frozen.interface, precision)
    # 3. Keep the signatures, the assets and the initializer. Nothing is left to restore.
    meta_graph = frozen.meta_graph
    for name in set(meta_graph.collection_def) - _KEPT_COLLECTIONS:
        del meta_graph.collection_def[name]
    for field in ("saver_def", "object_graph_def"):
        meta_graph.ClearField(field)
    meta_graph.meta_info_def.ClearField("stripped_op_list")
    meta_graph.meta_info_def.tags[:] = [SERVE_TAG]
    meta_graph.graph_def.CopyFrom(graph_def)
    served = pb.MetaGraphDef.FromString(meta_graph.SerializeToString())
    changes = {
        "nodes_before": frozen.nodes,
        "nodes_after": len(Program.of(served).runs(request_tensors(served))),
        "batch_norms": batch_norms,
        "bfloat16_nodes": count_in_bfloat16(graph_def),
    }
    if precision is Precision.BFLOAT16 and not changes["bfloat16_nodes"]:
        raise FailedError(Failure.UNCHANGED, "TensorFlow computes none of its operations in bfloat16")
    if not frozen.variables and changes["nodes_before"] == changes["nodes_after"] and precision is Precision.FLOAT32:
        raise FailedError(Failure.UNCHANGED, "it has no variables, and no operation can be removed")
    message = SavedModel(saved_model_schema_version=1, meta_graphs=[meta_graph])
    if message.ByteSize() >= LARGEST_MESSAGE:
        raise FailedError(Failure.NOT_OPTIMIZABLE, f"the result would have {message.ByteSize()} bytes in one file")
    Path(order.destination, SAVED_MODEL_FILE).write_bytes(message.SerializeToString(deterministic=True))
    return changes


if __name__ == "__main__":
    main()
