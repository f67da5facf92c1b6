import pytest

from sealserve.serving.runtime.graph_reach import find_reaches
from sealserve.serving.runtime.graph_walk import data_inputs, place_of, source, walk
from sealserve.serving.runtime.protos import MetaGraphDef


def test_a_walk_yields_each_thing_once_and_ends_in_a_circle() -> None:
    edges = {"a": ["b", "c"], "b": ["c"], "c": ["a"], "d": ["a"]}
    assert sorted(walk(["a", "a"], edges.__getitem__)) == ["a", "b", "c"]
    assert list(walk([], edges.__getitem__)) == []


def test_a_walk_asks_no_further_than_it_is_read() -> None:
    edges: dict[str, list[str]] = {}
    assert next(walk(["a"], edges.__getitem__)) == "a"


@pytest.mark.parametrize(
    ("name", "operation", "place"),
    [("x", "x", ("x", 0)), ("x:1", "x", ("x", 1)), ("x:y:0", "x", ("x", 0)), ("^x", "x", None)],
)
def test_names_of_tensors(name: str, operation: str, place: tuple[str, int] | None) -> None:
    assert source(name) == operation
    assert place is None or place_of(name) == place


@pytest.mark.tensorflow
def test_a_function_without_arguments_may_call_itself() -> None:
    graph = MetaGraphDef()
    graph.graph_def.node.add(name="x", op="Placeholder")
    graph.graph_def.node.add(name="y", op="f", input=["x"])
    function = graph.graph_def.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="again", op="f")
    function.node_def.add(name="kept", op="Unstage")
    function.node_def.add(name="after", op="f", input=["kept:values:0", "^again"])
    assert data_inputs(function.node_def[2]) == ["kept:values:0"]
    signature = graph.signature_def["s"]
    signature.inputs["x"].name, signature.outputs["y"].name = "x:0", "y:0"
    assert find_reaches(graph)["s"].bodies == {"f": {"kept", "after"}}
