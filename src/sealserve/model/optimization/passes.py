"""The passes that make a graph faster, mostly TensorFlow's own (Grappler).

1. Functions are inlined, constants are folded, and nodes that no signature needs are removed.
2. A batch normalization that uses stored statistics becomes a multiplication and an addition, and the factors are
   multiplied into the filters of the convolution before it (`folding`). Grappler can replace the operation too
   (``remap``), but then it also writes private operations, whose names begin with ``_``.
3. For bfloat16, TensorFlow's mixed-precision pass inserts casts around the operations that are safe and fast in
   bfloat16. Folding them leaves weights that are stored in bfloat16.
4. Additions of a vector become a ``BiasAdd`` (`folding`). When a server loads the model, TensorFlow merges exactly this
   form, a sum, and an activation into one oneDNN kernel.

Source: tensorflow/tensorflow 2.21, ``core/grappler/optimizers`` (``meta_optimizer.cc``,
``auto_mixed_precision_lists.h``: ``AutoMixedPrecisionListsMkl``).
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sealserve.model.optimization.folding import Folding
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.terms import Precision

_FOLD: Final = ("function", "constfold", "dependency")
_MIXED: Final = "auto_mixed_precision_onednn_bfloat16"
_IN_FLOAT32: Final = ("Softmax", "LogSoftmax", "Sigmoid", "Mean")
"""Operations that stay in float32.

Probabilities in bfloat16 have about three digits, so classes would tie. A mean in bfloat16 rounds what it averages.
"""
_LISTS: Final = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE"
_PACKED_FROM: Final = 64  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """The tensors of a graph whose names must stay, because a server or a client uses them.

    Args:
        fed: Tensors that a request or the loader replaces.
        fetched: Tensors that a request fetches.
        targets: Operations that loading runs.
    """

    fed: tuple[str, ...]
    fetched: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def nodes(self) -> frozenset[str]:
        """The names of all nodes."""
        return frozenset(name.partition(":")[0] for name in (*self.fed, *self.fetched, *self.targets))


def inlined(graph_def: Any, interface: Interface) -> Any:
    """Return a graph without calls of functions, if TensorFlow can replace them by the functions' nodes."""
    return _grappler(graph_def, interface, ("function",))


def optimized(graph_def: Any, interface: Interface, precision: Precision) -> tuple[Any, int]:
    """Return the optimized form of a graph without variables, and the number of replaced batch normalizations.

    Args:
        graph_def: A ``GraphDef``.
        interface: The tensors whose names stay.
        precision: The precision of the result.
    """
    graph = _grappler(graph_def, interface, _FOLD)
    folding = Folding(graph, interface.nodes)
    batch_norms = folding.split_batch_norms()
    if folding.fold_products() or batch_norms:
        graph = _grappler(graph, interface, _FOLD)
    if precision is Precision.BFLOAT16:
        lists = {f"{_LISTS}_DENYLIST_ADD": _IN_FLOAT32}
        lists |= {f"{_LISTS}_{kind}_REMOVE": _IN_FLOAT32 for kind in ("ALLOWLIST", "INFERLIST", "CLEARLIST")}
        with _environment({name: ",".join(operations) for name, operations in lists.items()}):
            graph = _grappler(graph, interface, (_MIXED, *_FOLD))
    Folding(graph, interface.nodes).name_biases()
    _pack_constants(graph)
    return graph, batch_norms


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which TensorFlow reads when a pass begins, and restore them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _grappler(graph_def: Any, interface: Interface, passes: Sequence[str]) -> Any:
    """Run passes of TensorFlow's graph optimizer, and return the new graph."""
    tf = import_tensorflow()
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2  # noqa: PLC0415  # TensorFlow is optional
    from tensorflow.python.grappler import tf_optimizer  # noqa: PLC0415

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        meta_graph = tf.compat.v1.train.export_meta_graph(graph_def=graph_def, graph=graph)
        signature = meta_graph.signature_def["all"]
        for kind, names in ((signature.inputs, interface.fed), (signature.outputs, interface.fetched)):
            for name in names:
                tensor = graph.get_tensor_by_name(name)
                kind[name].name = name
                kind[name].dtype = tensor.dtype.as_datatype_enum
                kind[name].tensor_shape.CopyFrom(tensor.shape.as_proto())
    # Grappler preserves the nodes in this collection, and what they need.
    meta_graph.collection_def["train_op"].node_list.value.extend(interface.targets)
    settings = config_pb2.ConfigProto()
    rewriting = settings.graph_options.rewrite_options
    rewriting.optimizers.extend(passes)
    rewriting.min_graph_nodes = -1  # otherwise small graphs would not be changed
    rewriting.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewriting.fail_on_optimizer_errors = True
    if _MIXED in passes:
        rewriting.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    return tf_optimizer.OptimizeGraph(settings, meta_graph)


def count_in_bfloat16(graph_def: Any) -> int:
    """Return the number of nodes that compute in bfloat16, without constants and conversions."""
    number = import_tensorflow().bfloat16.as_datatype_enum
    return sum("T" in node.attr and node.attr["T"].type == number for node in _all_nodes(graph_def))


def _pack_constants(graph: Any) -> None:
    """Store the numbers of constants as bytes. Grappler lists them, and two bytes of bfloat16 then need up to three."""
    tf = import_tensorflow()
    for node in _all_nodes(graph):
        if node.op != "Const":
            continue
        tensor = node.attr["value"].tensor
        dtype = tf.dtypes.as_dtype(tensor.dtype)
        if not (dtype.is_floating or dtype.is_integer) or dtype.is_quantized or tensor.tensor_content:
            continue
        if tensor.ByteSize() <= _PACKED_FROM:
            continue  # includes a tensor of one repeated value, which has a short form
        values = tf.make_ndarray(tensor)
        number, shape = tensor.dtype, type(tensor.tensor_shape)()
        shape.CopyFrom(tensor.tensor_shape)
        tensor.Clear()
        tensor.dtype = number
        tensor.tensor_shape.CopyFrom(shape)
        tensor.tensor_content = values.tobytes()


def _all_nodes(graph: Any) -> Iterable[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def
