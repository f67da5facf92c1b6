import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.tiny_model import saved_model

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.lint import RefusedOperationError, find, lint
from sealserve.model.operations import REFUSED, REFUSED_IN_SIGNATURES, TENSORFLOW_VERSION, known_operations
from sealserve.model.saved_model import ModelMissingError, NotASavedModelError, ServeTagMissingError


def changed(folder: Path, change: Any) -> Path:
    """Change the message of the SavedModel in ``folder``."""
    path = folder / "saved_model.pb"
    message = pb.SavedModel.FromString(path.read_bytes())
    change(message.meta_graphs[0])
    path.write_bytes(message.SerializeToString())
    return folder


def function(graph: pb.MetaGraphDef, name: str, *nodes: pb.NodeDef) -> None:
    graph.graph_def.library.function.add(signature=pb.OpDef(name=name), node_def=nodes)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved_model(tmp_path / "model")


def names(folder: Path) -> list[str]:
    return [found.operation for found in find(folder)]


def test_a_plain_model_passes(model: Path) -> None:
    linted = lint(model)
    assert (linted.allowed, linted.unused) == ((), ())


@pytest.mark.parametrize("name", ["WriteFile", "ReadFile", "Print", "PrintV2", "PyFunc", "EagerPyFunc", "Send"])
def test_what_reaches_outside_is_refused_by_name_with_its_reason(name: str, model: Path) -> None:
    changed(model, lambda graph: graph.graph_def.node.add(name="somewhere", op=name))
    with pytest.raises(RefusedOperationError, match=f"operations that are refused: {name} .*at somewhere") as caught:
        lint(model)
    assert caught.value.code == "model.refused-operation"
    assert REFUSED[name] in caught.value.message
    assert "dangerous_operations" in (caught.value.hint or "")


def test_it_is_found_in_functions_that_nothing_calls_as_well(model: Path) -> None:
    changed(model, lambda graph: function(graph, "f", pb.NodeDef(name="p", op="Print")))
    (found,) = find(model)
    assert (found.operation, found.nodes) == ("Print", ("f/p",))


def test_an_operation_that_tensorflow_does_not_have_is_refused(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        graph.graph_def.node.add(name="a", op="SentencepieceOp")
        graph.graph_def.node.add(name="b", op="our_function")
        function(graph, "our_function")

    changed(model, add)
    with pytest.raises(RefusedOperationError, match=rf"SentencepieceOp is none of TensorFlow {TENSORFLOW_VERSION}'s"):
        lint(model)
    assert names(model) == ["SentencepieceOp"]


def test_saving_and_loading_stand_in_each_saved_model(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        function(graph, "__inference__traced_save_1", pb.NodeDef(name="s", op="SaveV2"))
        function(graph, "__inference__initializer_2", pb.NodeDef(name="t", op="InitializeTableFromTextFileV2"))
        call = {"f": pb.AttrValue(func=pb.NameAttrList(name="__inference__traced_save_1"))}
        graph.graph_def.node.add(name="saver", op="StatefulPartitionedCall", attr=call)
        graph.graph_def.node.add(name="restore", op="RestoreV2")

    assert names(changed(model, add)) == []


def by_input(graph: pb.MetaGraphDef) -> None:
    graph.graph_def.node.add(name="s", op="SaveV2")
    graph.graph_def.node.add(name="between", op="Identity", input=["^s"])
    next(node for node in graph.graph_def.node if node.name == "y").input.append("between:1")


def by_function(graph: pb.MetaGraphDef) -> None:
    function(graph, "inner", pb.NodeDef(name="s", op="SaveV2"))
    call = {"f": pb.AttrValue(func=pb.NameAttrList(name="inner"))}
    function(graph, "outer", pb.NodeDef(name="c", op="PartitionedCall", attr=call))
    next(node for node in graph.graph_def.node if node.name == "y").op = "outer"


def by_a_list_of_functions(graph: pb.MetaGraphDef) -> None:
    function(graph, "branch", pb.NodeDef(name="s", op="SaveV2"))
    branches = pb.AttrValue(list=pb.AttrValue.ListValue(func=[pb.NameAttrList(name="branch")]))
    next(node for node in graph.graph_def.node if node.name == "y").attr["branches"].CopyFrom(branches)


def by_a_sparse_output(graph: pb.MetaGraphDef) -> None:
    graph.graph_def.node.add(name="s", op="SaveV2")
    sparse = pb.TensorInfo(coo_sparse=pb.TensorInfo.CooSparse(indices_tensor_name="s:0"))
    graph.signature_def["other"].outputs["o"].CopyFrom(sparse)


def by_a_composite_output(graph: pb.MetaGraphDef) -> None:
    graph.graph_def.node.add(name="s", op="SaveV2")
    composite = pb.TensorInfo.CompositeTensor(components=[pb.TensorInfo(name="s:0")])
    graph.signature_def["other"].outputs["o"].CopyFrom(pb.TensorInfo(composite_tensor=composite))


def by_a_circle(graph: pb.MetaGraphDef) -> None:
    by_input(graph)
    next(node for node in graph.graph_def.node if node.name == "between").input.append("y")
    function(graph, "f", pb.NodeDef(name="again", op="f"))
    next(node for node in graph.graph_def.node if node.name == "product").op = "f"


@pytest.mark.parametrize(
    "way", [by_input, by_function, by_a_list_of_functions, by_a_sparse_output, by_a_composite_output, by_a_circle]
)
def test_saving_that_a_client_can_start_is_refused(way: Any, model: Path) -> None:
    assert names(changed(model, way)) == ["SaveV2"]


def test_what_is_allowed_is_told_and_what_is_not_there_as_well(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        graph.graph_def.node.extend(pb.NodeDef(name=f"p{number}", op="Print") for number in range(5))
        graph.graph_def.node.add(name="w", op="WriteFile")

    changed(model, add)
    with pytest.raises(RefusedOperationError) as caught:
        lint(model, dangerous_operations=["Print"])
    assert [found.operation for found in caught.value.findings] == ["WriteFile"]
    linted = lint(model, dangerous_operations=["Print", "WriteFile", "PyFunc"])
    assert [found.operation for found in linted.allowed] == ["Print", "WriteFile"]
    assert linted.allowed[0].nodes == ("p0", "p1", "p2", "2 more")
    assert linted.unused == ("PyFunc",)


def test_what_is_no_model_for_serving(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError):
        lint(tmp_path / "nowhere")
    with pytest.raises(NotASavedModelError):
        lint(tmp_path)
    with pytest.raises(ServeTagMissingError):
        lint(changed(model, lambda graph: graph.meta_info_def.tags.append("gpu")))


def registered() -> Iterable[Any]:
    from tensorflow.core.framework.op_def_pb2 import OpList  # noqa: PLC0415
    from tensorflow.python.client import pywrap_tf_session  # noqa: PLC0415

    listed: Iterable[Any] = OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())).op
    return listed


OUTSIDE = re.compile(r"file|path|\bdir(ectory)?\b|address|_ur[il]s?\b|host|server|prefix|descriptor|tensor_name")
HARMLESS = {
    r".*TPU.*|.*Tpu.*|Xla(Recv|Send)TPU.*|XlaSparseDense.*": "there is no TPU in an enclave, and no kernel for one",
    r"Stack.*|.*CTCBeamSearch.*": "top_paths: how many answers",
    r"(Experimental)?SetStatsAggregatorDataset": "counter_prefix: of a name in memory",
    r"ShardedFilename|ShardedFilespec": "they only put a name together",
    r"TensorSliceDataset": "is_files: a hint",
    r"Cudnn.*|_FusedConv2D|_Fused.*Quantized.*|_QuantizedMatMul|_MklNativeFused.*": "memory of the host's processor",
    r"Copy|CopyHost": "tensor_name: for messages",
    r"ConfigureAndInitializeGlobalTPU|HostConst": "there is no TPU in an enclave",
}


@pytest.mark.tensorflow
def test_each_operation_that_names_something_outside_is_judged() -> None:
    judged = {*REFUSED, *REFUSED_IN_SIGNATURES}
    found = set()
    for operation in registered():
        named = [item.name for item in (*operation.input_arg, *operation.attr) if OUTSIDE.search(item.name)]
        if named and not any(re.fullmatch(pattern, operation.name) for pattern in HARMLESS):
            found.add(operation.name)
    assert found - judged == set()
    assert len(found) > 60


@pytest.mark.tensorflow
def test_the_known_operations_are_tensorflows() -> None:
    import tensorflow  # noqa: ICN001, PLC0415

    assert tensorflow.__version__ == TENSORFLOW_VERSION
    assert {operation.name for operation in registered()} == known_operations(), "run `make operations`"


def test_each_refused_operation_is_one_of_tensorflows() -> None:
    assert {*REFUSED, *REFUSED_IN_SIGNATURES} <= known_operations()


@pytest.mark.tensorflow
def test_a_model_of_tensorflow_with_variables_and_a_table_passes_and_one_that_prints_does_not(tmp_path: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415

    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")

    signature = tf.function(input_signature=[tf.TensorSpec([None], tf.string)])

    class Module(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable(2.0)
            initializer = tf.lookup.TextFileInitializer(
                str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            )
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        @signature  # type: ignore[untyped-decorator]
        def look_up(self, words: Any) -> Any:
            return tf.cast(self.table.lookup(words), tf.float32) * self.scale

    class Printing(Module):
        @signature  # type: ignore[untyped-decorator]
        def tell(self, words: Any) -> Any:
            tf.print(words)
            return self.look_up(words)

    for kind, expected in ((Module, []), (Printing, ["PrintV2"])):  # all functions are saved, signatures or not
        module = kind()
        tf.saved_model.save(module, str(tmp_path / kind.__name__), signatures=module.look_up)
        assert names(tmp_path / kind.__name__) == expected
