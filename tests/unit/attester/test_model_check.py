"""The check of models inside the enclave. The owner may be the attacker, so a check on her machine is not enough."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.harness.tiny_model import OUTPUT, saved_model

from sealserve.attester import program
from sealserve.attester.model_check import check_model
from sealserve.errors import InputError
from sealserve.model import saved_model_pb2 as pb

SERVE = ("serve",)


def change(folder: Path, changing: Callable[[pb.MetaGraphDef], None]) -> Path:
    """Return a model of an owner who wants to read the inputs."""
    model = saved_model(folder)
    path = model / "saved_model.pb"
    content = pb.SavedModel.FromString(path.read_bytes())
    changing(content.meta_graphs[0])
    path.write_bytes(content.SerializeToString())
    return model


def writing(graph: pb.MetaGraphDef) -> None:
    """Let the model write files. The owner can decrypt them."""
    graph.graph_def.node.add(name="keep", op="WriteFile")


def before_the_answer(graph: pb.MetaGraphDef, name: str) -> None:
    """Let a node run for each answer, through a control input."""
    next(node for node in graph.graph_def.node if node.name == OUTPUT).input.append(f"^{name}")


def keeping(operation: str) -> Callable[[pb.MetaGraphDef], None]:
    """Return a change: each request runs an operation that changes state."""

    def changing(graph: pb.MetaGraphDef) -> None:
        graph.graph_def.node.add(name="keep", op=operation)
        before_the_answer(graph, "keep")

    return changing


def keeping_in_a_function(graph: pb.MetaGraphDef) -> None:
    """The same in a function that another function calls."""
    outer, inner = (graph.graph_def.library.function.add() for _ in range(2))
    outer.signature.name, inner.signature.name = "outer", "inner"
    branch = outer.node_def.add(name="case", op="Case")
    branch.attr["branches"].list.func.add(name="inner")
    inner.node_def.add(name="keep", op="AssignVariableOp")
    graph.graph_def.node.add(name="call", op="StatefulPartitionedCall").attr["f"].func.name = "outer"
    before_the_answer(graph, "call")


def in_another_signature(graph: pb.MetaGraphDef) -> None:
    """The same behind a second signature, which only the owner knows."""
    graph.graph_def.node.add(name="keep", op="AssignVariableOp")
    graph.graph_def.node.add(name="other", op="Identity", input=["^keep"])
    graph.signature_def["secret"].outputs["y"].name = "other:0"


STATE = (
    "Assign", "AssignVariableOp", "AssignAddVariableOp", "ScatterNdUpdate", "ResourceScatterUpdate", "QueueEnqueueV2",
    "Stage", "MapStage", "BarrierInsertMany", "LookupTableInsertV2", "LookupTableImportV2", "IteratorV2",
    "BatchFunction", "GetSessionHandleV2", "CountUpTo", "ResourceApplyAdam", "MutexLock", "MutableDenseHashTableV2",
)  # fmt: skip


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    ("operation", "changing"),
    [
        ("WriteFile", writing),
        ("AssignVariableOp", keeping_in_a_function),
        ("AssignVariableOp", in_another_signature),
        ("DatasetFromGraph", keeping("DatasetFromGraph")),
        ("XlaCallModule", keeping("XlaCallModule")),
        ("RemoteCall", keeping("RemoteCall")),
        ("PyFunc", keeping("PyFunc")),
        ("PrintV2", keeping("PrintV2")),
        *((operation, keeping(operation)) for operation in STATE),
    ],
)
def test_a_model_that_can_keep_inputs_is_refused(operation: str, changing: Any, loaded: bool, tmp_path: Path) -> None:
    model = change(tmp_path / "m", changing)
    graph = pb.SavedModel.FromString((model / "saved_model.pb").read_bytes()).meta_graphs[0]
    given = graph.SerializeToString() if loaded else None
    with pytest.raises(InputError, match=operation) as caught:
        check_model(model, tags=SERVE, dangerous_operations=("Assign?",), loaded=given)
    assert caught.value.code == "model.refused-operation"
    check_model(model, tags=SERVE, dangerous_operations=(operation,), loaded=given)  # as the measured command line


def test_a_model_that_keeps_inputs_for_the_next_user_is_refused(tmp_path: Path) -> None:
    model = change(tmp_path / "m", keeping("AssignVariableOp"))
    with pytest.raises(InputError, match="AssignVariableOp stores one request's data, where another request can read"):
        check_model(model, tags=SERVE, dangerous_operations=())


def test_loading_may_set_variables(tmp_path: Path) -> None:
    def changing(graph: pb.MetaGraphDef) -> None:
        graph.graph_def.node.add(name="set", op="AssignVariableOp")
        graph.graph_def.node.add(name="init", op="NoOp", input=["^set"])
        graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "init"

    model = change(tmp_path / "m", changing)
    graph = pb.SavedModel.FromString((model / "saved_model.pb").read_bytes()).meta_graphs[0]
    check_model(model, tags=SERVE, dangerous_operations=())
    check_model(model, tags=SERVE, dangerous_operations=(), loaded=graph.SerializeToString())


def test_an_operation_of_another_library_cannot_be_allowed(tmp_path: Path) -> None:
    model = change(tmp_path / "m", keeping("SteganographyOp"))
    with pytest.raises(InputError, match="SteganographyOp is not an operation of TensorFlow"):
        check_model(model, tags=SERVE, dangerous_operations=("SteganographyOp",))


def test_a_loaded_graph_that_can_be_read_in_two_ways_is_refused(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "m")
    graph = pb.SavedModel.FromString((model / "saved_model.pb").read_bytes()).meta_graphs[0].SerializeToString()
    wrong_type = b"\x28\x01"  # field 5, signature_def, as a number
    with pytest.raises(InputError, match="only some protobuf libraries read") as caught:
        check_model(model, tags=SERVE, dangerous_operations=(), loaded=graph + wrong_type)
    assert caught.value.code == "model.ambiguous"


def test_a_model_without_such_operations_is_accepted(tmp_path: Path) -> None:
    check_model(saved_model(tmp_path / "m"), tags=SERVE, dangerous_operations=())


def test_the_program_checks_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def serve(_: Sequence[str] | None, **options: Any) -> int:
        given.update(options)
        return 0

    monkeypatch.setattr(program, "serve", serve)
    assert program.main([]) == 0
    assert given["check_model"] is check_model
