"""The copy of a graph with guards, and a guard's message."""

from typing import Any

import pytest

from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.guarded_copy import guarded_copy, original_names
from sealserve.serving.runtime.libtensorflow import TensorFlowError
from sealserve.serving.runtime.protos import MetaGraphDef
from sealserve.serving.runtime.shape_refusal import refusal

pytestmark = pytest.mark.tensorflow


def add(graph: Any, name: str, operation: str, *inputs: str, dtype: int = 1) -> Any:
    node = graph.node.add(name=name, op=operation, input=inputs)
    node.attr["T"].type = dtype
    return node


def meta_graph(**signatures: tuple[str, str]) -> MetaGraphDef:
    """Return ``x`` and a constant filter into two convolutions, and a third that no input reaches."""
    found = MetaGraphDef()
    graph = found.graph_def
    graph.node.add(name="x", op="Placeholder")
    graph.node.add(name="filter", op="Const")
    graph.node.add(name="ready", op="NoOp")
    add(graph, "before", "Abs", "x")
    add(graph, "fixed", "Conv2D", "filter", "filter")
    first = add(graph, "first", "Conv2D", "before", "filter", "^ready")
    first.attr["_class"].list.s.append(b"loc:@before")
    add(graph, "relu", "Relu", "first:0")
    add(graph, "second", "Conv2D", "relu", "filter")
    add(graph, "late", "Identity", "fixed", "^second")
    add(graph, "y", "AddV2", "second", "fixed")
    for name, (source, result) in (signatures or {"s": ("x", "y")}).items():
        definition = found.signature_def[name]
        definition.inputs["x"].name, definition.outputs["y"].name = f"{source}:0", f"{result}:0"
    return found


def originals(graph: Any) -> set[str]:
    return {node.name.partition("/")[2] for node in graph.node if "sealserve_guard/" not in node.name}


def guards(graph: Any) -> set[str]:
    return {node.name.partition("/")[2].partition("/")[0] for node in graph.node if node.op == "Assert"}


def test_only_what_comes_after_the_first_guard_is_copied() -> None:
    copy = guarded_copy(meta_graph())
    assert copy is not None
    assert originals(copy.graph) == {"first", "relu", "second", "y"}
    assert guards(copy.graph) == {"first"}, "the rank of what the second reads is known"
    assert copy.copied["s"]["y"] == "sealserve_guarded_0/y"
    assert set(copy.tensors) == {("before", 0), ("filter", 0), ("fixed", 0)}
    assert copy.controls == ("ready",)
    first = next(node for node in copy.graph.node if node.name == "sealserve_guarded_0/first")
    assert list(first.input) == ["sealserve_guarded_0/first/sealserve_guard/0/same", "filter", "^ready"]
    assert "_class" not in first.attr


def test_what_waits_for_a_guarded_operation_is_copied_too() -> None:
    copy = guarded_copy(meta_graph(s=("x", "late")))
    assert copy is not None
    late = next(node for node in copy.graph.node if node.name.endswith("/late"))
    assert list(late.input) == ["fixed", "^sealserve_guarded_0/second"]


def test_signatures_with_other_inputs_have_their_own_copy() -> None:
    copy = guarded_copy(meta_graph(whole=("x", "y"), same=("x", "relu"), inner=("relu", "y")))
    assert copy is not None
    assert copy.copied["whole"] == copy.copied["same"]
    assert set(copy.copied["inner"]) == {"second", "y"}
    assert copy.copied["inner"]["y"] != copy.copied["whole"]["y"]


def test_nothing_is_copied_where_nothing_needs_a_guard() -> None:
    assert guarded_copy(meta_graph(s=("x", "before"))) is None
    assert guarded_copy(meta_graph(s=("gone", "not there"))) is None
    assert guarded_copy(MetaGraphDef()) is None


def test_functions_with_guards_get_another_name() -> None:
    found = meta_graph()
    graph = found.graph_def
    for name in ("called", "unused"):
        function = graph.library.function.add()
        function.signature.name = name
        function.signature.input_arg.add(name="x", type=1)
        function.signature.input_arg.add(name="w", type=1)
        function.node_def.add(name="conv", op="Conv2D", input=["x", "w"])  # T is omitted: its default is float
    outer = graph.library.function.add()
    outer.signature.name = "outer"
    outer.signature.input_arg.add(name="x", type=1)
    outer.signature.input_arg.add(name="w", type=1)
    outer.node_def.add(name="in", op="PartitionedCall", input=["x", "w"]).attr["f"].func.name = "called"
    graph.node.add(name="call", op="StatefulPartitionedCall", input=["x", "filter"]).attr["f"].func.name = "outer"
    found.signature_def["s"].outputs["y"].name = "call:0"
    copy = guarded_copy(found)
    assert copy is not None
    definitions = {function.signature.name: function for function in copy.graph.library.function}
    assert definitions.keys() == {"called_sealserve_guarded", "outer_sealserve_guarded"}
    assert copy.graph.node[0].attr["f"].func.name == "outer_sealserve_guarded"
    inner = definitions["called_sealserve_guarded"].node_def
    assert list(inner[0].input) == ["conv/sealserve_guard/0/same:output:0", "w"], "a constant is not guarded"
    assert all("T" in node.attr or node.op not in {"Identity", "Shape"} for node in inner)
    assert [function.signature.name for function in graph.library.function] == ["called", "unused", "outer"]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("rank-4", "a tensor with 4 dimensions"),
        ("rank-4-6", "a tensor with 4 or 6 dimensions"),
        ("rank-1-2-3", "a tensor with 1 to 3 dimensions"),
        ("least-0-3-3-0", "a tensor of at least [?,3,3,?]"),
        ("elements-1", "a tensor with one element"),
        ("elements-4", "a tensor with 4 elements"),
        ("updates", "a tensor with at most one dimension less than its indices"),
        ("from-1", "values of at least 1"),
        ("upto-65504", "values of at most 65504"),
        ("fits", "the sizes of a smaller tensor"),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "assertion failed: [1 20 3]\n\t [[{{node a/b/sealserve_guard/0/NEED}}]]",
        "assertion failed: [1 20 3]\n\t [[{{function_node f}}{{node a/b/sealserve_guard/1/NEED}}]]",
        "{{function_node f}} assertion failed: [1 20 3]\n\t [[{{node a/b/sealserve_guard/0/NEED}}]]\n\t [[Call/Call]]",
    ],
)
def test_a_guard_says_what_is_needed(form: str, where: str, words: str) -> None:
    error = TensorFlowError(Status.INVALID_ARGUMENT, form.replace("NEED", where))
    assert refusal(error) == f"the operation 'a/b' requires {words}, got the shape [1,20,3]"


@pytest.mark.parametrize(
    "text",
    [
        "assertion failed: [1 20 3]\n\t [[{{node a/b}}]]",
        "assertion failed: [secret]\n\t [[{{node a/sealserve_guard/0/rank-4}}]]",
        "secret assertion failed: [1]\n\t [[{{node a/sealserve_guard/0/rank-4}}]]",
        "assertion failed: [1]\nsecret\n\t [[{{node a/sealserve_guard/0/rank-4}}]]",
    ],
)
def test_what_is_not_a_guards_word_is_not_taken_for_one(text: str) -> None:
    assert refusal(TensorFlowError(Status.INVALID_ARGUMENT, text)) is None


def test_names_in_texts_are_the_models() -> None:
    assert original_names("[[{{node sealserve_guarded_12/a/b}}]] f_sealserve_guarded") == "[[{{node a/b}}]] f"


def test_an_input_that_replaces_an_operation_does_not_have_the_rank_that_it_computes() -> None:
    copy = guarded_copy(meta_graph(inner=("first", "y")))
    assert copy is not None
    assert guards(copy.graph) == {"second"}


def test_an_operation_with_another_output_than_the_input_runs_with_guards() -> None:
    found = meta_graph()
    graph = found.graph_def
    add(graph, "halves", "Split", "filter", "second")
    add(graph, "sum", "AddV2", "halves", "halves:1")
    definition = found.signature_def["s"]
    definition.inputs["half"].name, definition.outputs["y"].name = "halves:1", "sum:0"
    copy = guarded_copy(found)
    assert copy is not None
    assert guards(copy.graph) == {"first"}
    total = next(node for node in copy.graph.node if node.name.endswith("/sum"))
    assert list(total.input) == ["sealserve_guarded_0/halves", "halves:1"], "what a request replaces is not copied"


def test_an_input_that_others_wait_for_runs_with_guards() -> None:
    found = meta_graph()
    add(found.graph_def, "after", "Identity", "filter", "^second")
    definition = found.signature_def["s"]
    definition.inputs["second"].name, definition.outputs["y"].name = "second:0", "after:0"
    copy = guarded_copy(found)
    assert copy is not None
    assert guards(copy.graph) == {"first"}


def test_where_a_request_writes_to_a_variable_what_reads_variables_has_guards_in_all_signatures() -> None:
    found = meta_graph(reads=("unused", "read"))
    graph = found.graph_def
    graph.node.add(name="state", op="VarHandleOp")
    graph.node.add(name="value", op="ReadVariableOp", input=["state"])
    add(graph, "read", "Conv2D", "value", "filter")
    assert guarded_copy(found) is None
    graph.node.add(name="write", op="AssignVariableOp", input=["state", "x"])
    add(graph, "written", "Identity", "filter", "^write")
    definition = found.signature_def["writes"]
    definition.inputs["x"].name, definition.outputs["y"].name = "x:0", "written:0"
    copy = guarded_copy(found)
    assert copy is not None
    assert copy.copied.keys() == {"reads"}
    assert guards(copy.graph) == {"read"}
