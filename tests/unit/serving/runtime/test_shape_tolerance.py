"""Shapes that a signature does not declare reach only operations that cope with them."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from tests.unit.serving.conftest import load, server_options

from sealserve.serving.api.predict import predict
from sealserve.serving.request_errors import RequestError
from sealserve.serving.runtime.libtensorflow import TensorFlowError, library
from sealserve.serving.runtime.protos import MetaGraphDef, PredictRequest, PredictResponse, TensorProto
from sealserve.serving.runtime.shape_tolerance import TOLERANT_OPERATIONS, tolerant_signatures
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.servables import Servable, Servables

pytestmark = pytest.mark.tensorflow

SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (1,), (3,), (4,), (2, 2), (0, 4), (4, 0), (1, 4), (2, 5), (2, 3, 4), (1, 0, 0), (1, 8, 8, 3)),
    *((0, 8, 8, 3), (1, 4, 8, 8, 3), (0, 0, 0, 0, 0), (1,) * 9, (2,) * 12, (1,) * 20, (1,) * 250),
)


def _operations(tf: Any, x: Any, words: Any) -> Mapping[str, Any]:
    raw = tf.raw_ops
    row, matrix = tf.constant([1.0, 2.0, 3.0, 4.0]), tf.constant(np.ones([4, 3], np.float32))
    pairs = ("AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "Pow", "SquaredDifference", "Add")
    alone = (
        *("Neg", "Abs", "Square", "Sqrt", "Rsqrt", "Exp", "Log", "Round", "Floor", "Sigmoid", "Tanh"),
        *("Identity", "StopGradient", "Shape"),
    )
    activations = ("Relu", "Relu6", "Elu", "Selu", "Softplus")
    dense = tf.matmul(x, matrix)
    outputs = {name: getattr(raw, name)(x=x, y=row) for name in pairs}
    outputs |= {
        name: getattr(raw, name)(**{"input" if name in {"Identity", "StopGradient", "Shape"} else "x": x})
        for name in alone
    }
    outputs |= {name: getattr(raw, name)(features=x) for name in activations}
    with tf.control_dependencies([tf.no_op()]):
        outputs["NoOp"] = tf.identity(x)
    variables = [tf.compat.v1.Variable(row, use_resource=resource, shape=[4]) for resource in (False, True)]
    return outputs | {
        "IdentityN": raw.IdentityN(input=[x, row])[0],
        "Cast": tf.cast(x, tf.int32),
        "Softmax": raw.Softmax(logits=x),
        "LogSoftmax": raw.LogSoftmax(logits=x),
        "MatMul": dense,
        "BiasAdd": tf.nn.bias_add(x, row),
        "fused": tf.nn.relu(tf.nn.bias_add(dense, tf.constant([1.0, 2.0, 3.0]))),
        "VariableV2": x + variables[0],
        "ReadVariableOp": x * variables[1],
        "StringJoin": tf.strings.join([words, words]),
        "StringLower": tf.strings.lower(words),
        "StringUpper": tf.strings.upper(words),
    }


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> tuple[Servable, MetaGraphDef]:
    """A signature for each operation, and one whose operation relies on its input's rank."""
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    folder = tmp_path_factory.mktemp("operations")
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x, words = v1.placeholder(tf.float32, [None, 4], "x"), v1.placeholder(tf.string, [None], "words")
        image = v1.placeholder(tf.float32, [None, 8, 8, 3], "image")
        made = dict(_operations(tf, x, words))
        predict_signature = v1.saved_model.predict_signature_def
        signatures = {
            name: predict_signature({"x": words if name.startswith("String") else x}, {"y": tf.identity(output)})
            for name, output in made.items()
        }
        convolved = tf.nn.conv2d(image, np.ones([3, 3, 3, 1], np.float32), 1, "SAME")
        signatures["conv"] = predict_signature({"x": image}, {"y": convolved})
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
        meta_graph = MetaGraphDef(graph_def=graph.as_graph_def())
    return load(server_options(folder)), meta_graph


def test_operations_that_are_called_tolerant_survive_every_shape(every: tuple[Servable, MetaGraphDef]) -> None:
    servable, meta_graph = every
    present = {node.op for node in meta_graph.graph_def.node}
    assert present >= TOLERANT_OPERATIONS - {"Variable"}  # TensorFlow 1 wrote it, and none does any more
    ran = 0
    for name, signature in servable.signatures.items():
        assert signature.inputs["x"].tolerant is (name != "conv")
        if name == "conv":
            continue
        for shape in SHAPES:
            proto = TensorProto(dtype=signature.inputs["x"].dtype)
            for size in shape:
                proto.tensor_shape.dim.add(size=size)
            (proto.string_val if name.startswith("String") else proto.float_val).append(
                b"a" if name.startswith("String") else -0.5
            )
            tensor = Tensor.from_proto(library(), proto.SerializeToString())
            with suppress(TensorFlowError):
                signature.run(servable.session, {"x": tensor}, ["y"], timeout=None)
                ran += 1
    assert ran > len(SHAPES)


def ask(servable: Servable, signature: str, shape: tuple[int, ...]) -> PredictResponse:
    table = Servables()
    table.publish(servable)
    request = PredictRequest()
    request.model_spec.name = servable.name
    request.model_spec.signature_name = signature
    proto = request.inputs["x"]
    proto.dtype = 1
    proto.float_val.append(1.0)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    content = predict(table, request.SerializeToString(), max_tensor_bytes=2**20, deadline=None)
    return PredictResponse.FromString(content)


def test_another_shape_is_computed_with_as_tensorflow_serving_does(every: tuple[Servable, MetaGraphDef]) -> None:
    servable, _ = every
    assert list(ask(servable, "Neg", (3,)).outputs["y"].float_val) == [-1, -1, -1]
    with pytest.raises(RequestError, match=r"^Incompatible shapes: \[4\] vs\. \[3\]\n\t \[\[\{\{node \w+\}\}\]\]$"):
        ask(servable, "AddV2", (3,))


def test_a_rank_that_an_operation_relies_on_is_not_tried(every: tuple[Servable, MetaGraphDef]) -> None:
    servable, _ = every
    with pytest.raises(RequestError, match=r"input 'x' has the shape \[3\]; the signature takes \[\?,8,8,3\]"):
        ask(servable, "conv", (3,))
    assert len(ask(servable, "conv", (1, 8, 8, 3)).outputs["y"].float_val) == 64


def test_functions_are_looked_into(servable: Servable) -> None:
    tolerant = {
        name for name, signature in servable.signatures.items() for entry in signature.inputs.values() if entry.tolerant
    }
    assert tolerant == {"serving_default", "two_inputs"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda graph: setattr(graph.node[1], "op", "Conv2D"),
        lambda graph: graph.node[1].input.append("gone"),
        lambda graph: setattr(graph.library.function[0].node_def[0], "op", "Conv2D"),
        lambda graph: graph.library.ClearField("function"),
    ],
    ids=["operation", "missing-node", "function", "missing-function"],
)
def test_what_is_not_known_is_not_tolerant(spoil: Callable[[Any], None]) -> None:
    meta_graph = MetaGraphDef()
    graph = meta_graph.graph_def
    graph.node.add(name="x", op="Placeholder")
    graph.node.add(name="y", op="Identity", input=["call:0"])
    graph.node.add(name="call", op="PartitionedCall", input=["x", "^x"]).attr["f"].func.name = "f"
    function = graph.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="again", op="PartitionedCall").attr["f"].func.name = "f"
    function.node_def.insert(0, type(function.node_def[0])(name="a", op="Identity"))
    definition = meta_graph.signature_def["s"]
    definition.inputs["x"].name, definition.outputs["y"].name = "x:0", "y:0"
    assert tolerant_signatures(meta_graph) == {"s"}
    spoil(graph)
    assert tolerant_signatures(meta_graph) == frozenset()
