"""Shapes that a signature does not declare reach only operations that were tested with them."""

from collections.abc import Callable
from typing import Any

import pytest

from sealserve.serving.runtime.aborting_operations import GUARDED
from sealserve.serving.runtime.protos import MetaGraphDef
from sealserve.serving.runtime.shape_tolerance import tolerant_signatures
from sealserve.serving.runtime.tried_operations import TRIED
from sealserve.serving.servables import Servable

pytestmark = pytest.mark.tensorflow

UNTRIED = "SomebodysOwnOperation"


def test_functions_are_looked_into(servable: Servable) -> None:
    tolerant = {
        name for name, signature in servable.signatures.items() for entry in signature.inputs.values() if entry.tolerant
    }
    assert tolerant == {"serving_default", "two_inputs", "words", "pick", "number"}


def test_common_operations_were_tried_and_guarded_ones_are_among_them() -> None:
    common = (
        "Sum Mean Max Reshape ConcatV2 Transpose Pack StridedSlice GatherV2 SelectV2 ArgMax MatMul Conv2D MaxPool"
        " FusedBatchNormV3 BatchMatMulV2 Softmax TensorListStack TensorListGetItem Pad ResizeBilinear LookupTableFindV2"
    )
    assert set(common.split()) <= TRIED
    without_trial = {
        "RandomPoisson",
        "RandomPoissonV2",
        "HistogramFixedWidth",
    }  # some of their values end or block the process
    assert GUARDED - without_trial <= TRIED
    assert UNTRIED not in TRIED


def meta_graph() -> MetaGraphDef:
    """Return a graph whose input ``x`` reaches ``y`` through a function. A constant takes a different path."""
    found = MetaGraphDef()
    graph = found.graph_def
    graph.node.add(name="x", op="Placeholder")
    graph.node.add(name="constant", op=UNTRIED)
    graph.node.add(name="call", op="PartitionedCall", input=["x", "constant", "^x"]).attr["f"].func.name = "f"
    graph.node.add(name="y", op="Identity", input=["call:0"])
    function = graph.library.function.add()
    function.signature.name = "f"
    function.signature.input_arg.add(name="given")
    function.signature.input_arg.add(name="fixed")
    function.node_def.add(name="a", op="Identity", input=["given"])
    function.node_def.add(name="b", op=UNTRIED, input=["fixed"])
    function.node_def.add(name="again", op="PartitionedCall", input=["a:output:0", "b:0"]).attr["f"].func.name = "f"
    definition = found.signature_def["s"]
    definition.inputs["x"].name, definition.outputs["y"].name = "x:0", "y:0"
    return found


def test_only_what_an_input_reaches_counts() -> None:
    assert tolerant_signatures(meta_graph()) == {"s"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda graph: setattr(graph.node[3], "op", UNTRIED),
        lambda graph: setattr(graph.library.function[0].node_def[0], "op", UNTRIED),
        lambda graph: graph.node[2].input.__setitem__(1, "x"),
        lambda graph: setattr(graph.node[2], "op", "SomeMap"),
        lambda graph: setattr(graph.library.function[0].node_def[1], "op", "QueueDequeueV2"),
    ],
    ids=["operation", "in-function", "argument", "unknown-caller", "a-store"],
)
def test_what_was_not_tried_is_not_tolerant(spoil: Callable[[Any], None]) -> None:
    found = meta_graph()
    spoil(found.graph_def)
    found.graph_def.library.function[0].node_def.add(name="c", op=UNTRIED, input=["b:0"])
    assert tolerant_signatures(found) == frozenset()
