"""A frozen graph's large constants become variables: the same values, in a file of their own.

TensorFlow keeps several copies of a constant: in the graph, in the graph that it optimised, in the kernel. Of a
variable it keeps one. Measured with ResNet50 (102 MB of weights): docs/decisions/0031-constants-become-variables.md.

Every other node stays as it is, and each value is compared bit for bit with what was written. With TensorFlow's graph
optimiser off, the answers are bit for bit the same. It multiplies some constants in advance, and no variables,
so with it on the last bits of an answer can differ, as they do between two of its versions.

Source: tensorflow/tensorflow 2.21, ``python/framework/importer.py`` (``input_map``: what is mapped need not be there).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sealserve.model.codes import ModelCode
from sealserve.model.tensorflow_import import import_tensorflow

LARGE: Final = 64 * 1024
"""Bytes from which on a constant is lifted. Small ones are shapes, axes and the like, and stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """A graph without its large constants.

    Args:
        graph_def: The rest.
        values: The constants that were taken out, as arrays, by their nodes' names.
    """

    graph_def: Any
    values: Mapping[str, Any]


def lift(graph_def: Any, *, keep: Collection[str]) -> Lifted:
    """Take the large constants out of a graph (a ``GraphDef``).

    Args:
        graph_def: The graph. It is not changed.
        keep: Names of nodes that stay: the inputs and the outputs.
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
            del added.input[:]  # a constant is there from the start: nothing has to wait for it
            added.input.extend(name for name in node.input if name.removeprefix("^") not in values or name[0] != "^")
    return Lifted(graph_def=rest, values=values)


def import_lifted(lifted: Lifted) -> None:
    """Import the graph into the current one, with a variable in the place of each constant.

    Raises:
        ValueError, OpError: TensorFlow does not take it.
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
    """Give each variable of the session's graph its value."""
    tf = import_tensorflow()
    variables = {variable.op.name: variable for variable in tf.compat.v1.global_variables()}
    for name, value in lifted.values.items():
        initializer = variables[name].initializer
        session.run(initializer, {initializer.inputs[1]: value})


def check_written(lifted: Lifted, folder: Path) -> None:
    """Check that the SavedModel in ``folder`` has each value, bit for bit. The rest of the graph is as it was.

    Raises:
        VerificationError: `model.lifting`: It has another one.
    """
    if not lifted.values:
        return
    reader = import_tensorflow().train.load_checkpoint(str(folder / "variables" / "variables"))
    for name, value in lifted.values.items():
        written = reader.get_tensor(name)
        if written.dtype != value.dtype or written.shape != value.shape or written.tobytes() != value.tobytes():
            raise ModelCode.LIFTING.error(
                f"The constant {name!r} was not written as it was.", hint="Convert with --keep-frozen, and report this."
            )


def _is_large(tf: Any, tensor: Any) -> bool:
    dtype = tf.dtypes.as_dtype(tensor.dtype)
    if not (dtype.is_floating or dtype.is_integer or dtype.is_complex) or dtype.is_quantized:
        return False
    shape = tf.TensorShape(tensor.tensor_shape)
    return bool(shape.is_fully_defined() and shape.num_elements() * dtype.size >= LARGE)
