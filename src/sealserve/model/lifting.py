"""Converts a frozen graph's large constants into variables with the same values, stored in a separate file.

TensorFlow holds several copies of a constant: in the graph, in the optimized graph, and in the kernel. It holds one
copy of a variable. Measured with ResNet50 (102 MB of weights): docs/decisions/0031-constants-become-variables.md.

All other nodes stay unchanged, and each written value is compared bit for bit with its constant. With TensorFlow's
graph optimizer off, the answers are identical bit for bit. The optimizer computes products of some constants in
advance, but not of variables. So with the optimizer on, the last bits of an answer can differ, as between two versions
of TensorFlow.

Source: tensorflow/tensorflow 2.21, ``python/framework/importer.py`` (``input_map``: mapped nodes need not exist).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sealserve.model.codes import ModelCode
from sealserve.model.tensorflow_import import import_tensorflow

LARGE: Final = 64 * 1024
"""The size in bytes from which a constant is converted. Smaller constants, such as shapes and axes, stay constants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """A graph without its large constants.

    Args:
        graph_def: The remaining graph.
        values: The removed constants as arrays, by the names of their nodes.
    """

    graph_def: Any
    values: Mapping[str, Any]


def lift(graph_def: Any, *, keep: Collection[str]) -> Lifted:
    """Remove the large constants from a graph (a ``GraphDef``).

    Args:
        graph_def: The graph. It is not changed.
        keep: Names of nodes that are not removed: the inputs and the outputs.
    """
    tf = import_tensorflow()
    values = {
        node.name: tf.make_ndarray(node.attr["value"].tensor)
        for node in graph_def.node
        if node.op == "Const" and node.name not in keep and _is_large(tf, node.attr["value"].tensor)
    }
    if not values:
        return Lifted(graph_def=graph_def, values={})
    rest = type(graph_def)(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.name not in values:
            added = rest.node.add()
            added.CopyFrom(node)
            del added.input[:]  # a control dependency on a removed constant is not needed
            added.input.extend(name for name in node.input if name.removeprefix("^") not in values or name[0] != "^")
    return Lifted(graph_def=rest, values=values)


def import_lifted(lifted: Lifted) -> None:
    """Import the graph into the current graph, with a variable in place of each removed constant.

    Raises:
        ValueError, OpError: TensorFlow rejects the graph.
    """
    tf = import_tensorflow()
    reads = {}
    for name, value in lifted.values.items():
        variable = tf.compat.v1.Variable(
            lambda value=value: tf.zeros(value.shape, value.dtype), name=name, use_resource=True, trainable=False
        )
        reads[f"{name}:0"] = variable.read_value()
    tf.import_graph_def(lifted.graph_def, name="", input_map=reads or None)


def initialise(lifted: Lifted, session: Any) -> None:
    """Assign each variable of the session's graph its value."""
    tf = import_tensorflow()
    variables = {variable.op.name: variable for variable in tf.compat.v1.global_variables()}
    for name, value in lifted.values.items():
        initializer = variables[name].initializer
        session.run(initializer, {initializer.inputs[1]: value})


def check_written(lifted: Lifted, folder: Path) -> None:
    """Check that the SavedModel in ``folder`` has each value, bit for bit. The rest of the graph was not changed.

    Raises:
        VerificationError: `model.lifting`: A variable has a different value than its constant.
    """
    if not lifted.values:
        return
    reader = import_tensorflow().train.load_checkpoint(str(folder / "variables" / "variables"))
    for name, value in lifted.values.items():
        written = reader.get_tensor(name)
        if written.dtype != value.dtype or written.shape != value.shape or written.tobytes() != value.tobytes():
            raise ModelCode.LIFTING.error(
                f"The constant {name!r} was written with a different value.",
                hint="Convert the model with --keep-frozen, and report this error.",
            )


def _is_large(tf: Any, tensor: Any) -> bool:
    dtype = tf.dtypes.as_dtype(tensor.dtype)
    if not (dtype.is_floating or dtype.is_integer or dtype.is_complex) or dtype.is_quantized:
        return False
    shape = tf.TensorShape(tensor.tensor_shape)
    return bool(shape.is_fully_defined() and shape.num_elements() * dtype.size >= LARGE)
