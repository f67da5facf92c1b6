from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.frozen_graph import check_frozen, reachable, read_graph


def test_a_frozen_graph_with_the_nodes_passes(graph_file: Path) -> None:
    graph = read_graph(graph_file)
    check_frozen(graph, graph_file, inputs=["input"], outputs=["predict"])
    assert reachable(graph, ["predict"]) == {"predict", "product", "input", "half"}
    assert reachable(graph, ["half"]) == {"half"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with raises(ModelCode.MISSING, match=r"The model .*nowhere\.pb does not exist"):
        read_graph(tmp_path / "nowhere.pb")


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x0a\x00", b"\x00" * 100])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(content)
    with raises(ModelCode.NOT_A_GRAPH, match=r"graph\.pb is not a frozen graph") as caught:
        read_graph(path)
    assert caught.value.code == "model.not-a-graph"


def test_the_file_of_a_saved_model_points_at_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "saved_model.pb"
    path.write_bytes(pb.SavedModel(saved_model_schema_version=1).SerializeToString())
    with raises(ModelCode.NOT_A_GRAPH, match=f"belongs to a SavedModel.*Give the folder {tmp_path}"):
        read_graph(path)


@pytest.mark.parametrize(
    ("inputs", "outputs", "hint"),
    [
        (["inputs"], ["predict"], "'inputs', which is named as an input. Did you mean 'input'?"),
        (["input"], ["prediction"], "'prediction', which is named as an output. Did you mean 'predict'?"),
        (["zzz"], ["predict"], "'zzz', which is named as an input. Its likely inputs: 'input'."),
        (["input"], ["zzz"], "'zzz', which is named as an output. Its likely outputs: 'predict'."),
    ],
)
def test_an_unknown_node_names_the_nearest(graph_file: Path, inputs: list[str], outputs: list[str], hint: str) -> None:
    with raises(ModelCode.UNKNOWN_NODE) as caught:
        check_frozen(read_graph(graph_file), graph_file, inputs=inputs, outputs=outputs)
    assert caught.value.code == "model.unknown-node"
    assert str(caught.value) == f"{graph_file} does not have a node {hint}"


@pytest.mark.parametrize(("inputs", "outputs"), [([], ["predict"]), (["input"], [])])
def test_a_frozen_graph_needs_names(graph_file: Path, inputs: list[str], outputs: list[str]) -> None:
    with raises(ModelCode.NO_SIGNATURE, match="a frozen graph does not contain them"):
        check_frozen(read_graph(graph_file), graph_file, inputs=inputs, outputs=outputs)


def test_a_graph_with_variables_is_not_frozen(graph_file: Path) -> None:
    graph = read_graph(graph_file)
    graph.node.append(pb.NodeDef(name="unused", op="VarHandleOp"))
    check_frozen(graph, graph_file, inputs=["input"], outputs=["predict"])
    graph.node[2].input.append("unused")
    with raises(ModelCode.NOT_FROZEN, match="is not frozen: 'unused' is a variable") as caught:
        check_frozen(graph, graph_file, inputs=["input"], outputs=["predict"])
    assert caught.value.code == "model.not-frozen"
