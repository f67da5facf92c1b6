"""Detection of outputs whose number of rows depends on the inputs' values."""

import pytest

from sealserve.serving.runtime.protos import MetaGraphDef
from sealserve.serving.runtime.row_counts import counted_outputs

pytestmark = pytest.mark.tensorflow


def is_counted(operation: str, *operands: str) -> bool:
    """Return whether ``operation`` has a counted number of rows if it reads ``x``, or ``found`` of ``tf.where``."""
    meta_graph = MetaGraphDef()
    graph = meta_graph.graph_def
    graph.node.add(name="x", op="Placeholder")
    graph.node.add(name="found", op="Where", input=["x"])
    graph.node.add(name="y", op=operation, input=operands)
    meta_graph.signature_def["s"].outputs["y"].name = "y:0"
    return counted_outputs(meta_graph) == {"y:0"}


@pytest.mark.parametrize(
    ("operation", "operands"),
    [
        *((name, ("found", "x")) for name in ("Sum", "Mean", "ArgMax", "PadV2", "Einsum", "BatchMatMulV2", "Conv2D")),
        *((name, ("found",)) for name in ("Softplus", "Log1p", "IsNan", "StringToHashBucketFast", "Unpack")),
        ("Pack", ("x", "found")),
        ("SquaredDifference", ("x", "found")),
        ("LookupTableFindV2", ("x", "found", "x")),
        ("Split", ("x", "found")),
    ],
)
def test_rows_that_are_counted_stay_so_behind_other_operations(operation: str, operands: tuple[str, ...]) -> None:
    assert is_counted(operation, *operands)
    assert not is_counted(operation, *("x" for _ in operands))


def test_what_has_no_rows_of_an_operand_does_not_pass_its_count_on() -> None:
    assert not is_counted("Shape", "found")
    assert not is_counted("LookupTableFindV2", "found", "x", "found")
