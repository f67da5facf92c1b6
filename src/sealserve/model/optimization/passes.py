"""The passes that make a graph faster, mostly TensorFlow's own (Grappler), and the check of their result.

1. Functions are inlined, constants are folded, and nodes that no signature needs are removed.
2. A batch normalization that uses stored statistics becomes a multiplication and an addition. Constant folding then
   multiplies the factors into the filters of the convolution before it, if nothing else reads the convolution. Grappler
   can replace the operation too (``remap``), but it also writes private operations, whose names begin with ``_``.
3. For bfloat16, TensorFlow's mixed-precision pass inserts casts around the operations that are safe and fast in
   bfloat16. Folding them leaves weights that are stored in bfloat16.
4. An addition of a constant vector to the result of a convolution becomes a ``BiasAdd``. When a server loads the model,
   TensorFlow merges exactly this form, a sum, and an activation into one oneDNN kernel. Without this step, TensorFlow's
   constant folding would move the vector behind the sum, where it is not merged.

Source: tensorflow/tensorflow 2.21, ``core/grappler/optimizers`` (``constant_folding.cc``: ``MulConvPushDown``,
``ConstantPushDown``; ``remapper.cc``: ``FindContractionWithBiasAndAddActivation``; ``auto_mixed_precision_lists.h``:
``AutoMixedPrecisionListsMkl``), ``core/kernels/fused_batch_norm_op.cc``.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.terms import Precision

_FOLD: Final = ("function", "constfold", "dependency")
_MIXED: Final = "auto_mixed_precision_onednn_bfloat16"
_IN_FLOAT32: Final = ("Softmax", "LogSoftmax", "Sigmoid", "Mean")
"""Operations that stay in float32.

Probabilities in bfloat16 have about three digits, so classes would tie. A mean in bfloat16 rounds what it averages.
"""
_LISTS: Final = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE"
_ADDITIONS: Final = ("Add", "AddV2")
_CONTRACTIONS: Final = {"Conv2D": "NHWC", "DepthwiseConv2dNative": "NHWC", "MatMul": "NHWC"}
"""Operations after which TensorFlow merges a ``BiasAdd``, and the only layout of data that is changed here."""
_BATCH_NORMS: Final = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
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
    if batch_norms := split_batch_norms(graph, keep=interface.nodes):
        graph = _grappler(graph, interface, _FOLD)
    if precision is Precision.BFLOAT16:
        lists = {f"{_LISTS}_DENYLIST_ADD": _IN_FLOAT32}
        lists |= {f"{_LISTS}_{kind}_REMOVE": _IN_FLOAT32 for kind in ("ALLOWLIST", "INFERLIST", "CLEARLIST")}
        with _environment({name: ",".join(operations) for name, operations in lists.items()}):
            graph = _grappler(graph, interface, (_MIXED, *_FOLD))
    _name_biases(graph, keep=interface.nodes)
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


def split_batch_norms(graph: Any, *, keep: Collection[str]) -> int:
    """Replace each batch normalization with constant statistics by a product and a sum; return their number.

    Args:
        graph: A ``GraphDef``, which is changed.
        keep: Names of nodes that are not changed.
    """
    tf = import_tensorflow()
    nodes = {node.name: node for node in graph.node}
    read = {name.removeprefix("^") for node in graph.node for name in node.input}
    replaced = 0
    for norm in list(graph.node):
        if norm.op not in _BATCH_NORMS or norm.attr["is_training"].b or norm.name in keep:
            continue
        if norm.attr["T"].type != tf.float32.as_datatype_enum or any(f"{norm.name}:{n}" in read for n in range(1, 6)):
            continue
        statistics = [node for name in norm.input[1:5] if (node := nodes.get(name)) is not None and node.op == "Const"]
        if len(statistics) < len(norm.input[1:5]):
            continue
        scale, offset, mean, variance = (
            tf.make_ndarray(node.attr["value"].tensor).astype(np.float64) for node in statistics
        )
        factor = scale / np.sqrt(variance + norm.attr["epsilon"].f)
        shape = (-1, 1, 1) if norm.attr["data_format"].s == b"NCHW" else (-1,)
        values = {"factor": factor, "offset": offset - mean * factor}
        names = {}
        for kind, value in values.items():
            added = graph.node.add(name=_free_name(f"{norm.name}/{kind}", nodes), op="Const")
            added.attr["dtype"].type = tf.float32.as_datatype_enum
            added.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(np.float32).reshape(shape)))
            nodes[added.name], names[kind] = added, added.name
        product = graph.node.add(name=_free_name(f"{norm.name}/product", nodes), op="Mul", device=norm.device)
        product.input.extend([norm.input[0], names["factor"]])
        nodes[product.name] = product
        controls = [name for name in norm.input if name.startswith("^")]
        for node in (product, norm):
            node.attr["T"].type = tf.float32.as_datatype_enum
        norm.op = "AddV2"
        norm.input[:] = [product.name, names["offset"], *controls]
        for attribute in set(norm.attr) - {"T"}:
            del norm.attr[attribute]
        replaced += 1
    return replaced


def _name_biases(graph: Any, *, keep: Collection[str]) -> None:
    """Replace each addition of a constant vector to the result of a contraction by a ``BiasAdd``."""
    tf = import_tensorflow()
    nodes = {node.name: node for node in graph.node}
    for node in graph.node:
        if node.op not in _ADDITIONS or node.name in keep:
            continue
        for data, vector in ((0, 1), (1, 0)):
            source, constant = (nodes.get(node.input[index].partition(":")[0]) for index in (data, vector))
            if source is None or constant is None or constant.op != "Const" or not _contracts(source, node.input[data]):
                continue
            values = tf.make_ndarray(constant.attr["value"].tensor)
            if values.ndim == 0 or values.size != values.shape[-1] or values.size == 1:
                continue
            bias = graph.node.add()
            bias.CopyFrom(constant)
            bias.name = _free_name(f"{node.name}/bias", nodes)
            bias.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values.reshape(-1)))
            nodes[bias.name] = bias
            node.op = "BiasAdd"
            node.input[:] = [node.input[data], bias.name, *node.input[2:]]  # then control dependencies
            node.attr["data_format"].s = b"NHWC"
            break
    _remove_unused(graph, keep)


def _contracts(node: Any, tensor: str) -> bool:
    """Return whether a tensor is the result of a contraction whose last dimension has the channels."""
    layout = node.attr["data_format"].s.decode() if "data_format" in node.attr else "NHWC"
    return tensor == node.name and _CONTRACTIONS.get(node.op) == layout


def _free_name(name: str, nodes: Mapping[str, Any]) -> str:
    while name in nodes:
        name += "_"
    return name


def _remove_unused(graph: Any, keep: Collection[str]) -> None:
    """Remove constants that no node reads any more."""
    used = {name.removeprefix("^").partition(":")[0] for node in graph.node for name in node.input}
    kept = [node for node in graph.node if node.op != "Const" or node.name in used or node.name in keep]
    del graph.node[:]
    graph.node.extend(kept)


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
