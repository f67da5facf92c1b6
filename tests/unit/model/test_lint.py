import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises
from tests.harness.tiny_model import saved_model

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.lint import RefusedOperationError, find, lint
from sealserve.model.operations import TENSORFLOW_VERSION, Allowed, class_of, classes
from sealserve.model.saved_model import read_saved_model


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
    return [found.operation for found in find(folder, read_saved_model(folder))]


def test_a_plain_model_passes(model: Path) -> None:
    linted = lint(model)
    assert (linted.allowed, linted.unused) == ((), ())


@pytest.mark.parametrize("name", ["WriteFile", "ReadFile", "Print", "PrintV2", "PyFunc", "EagerPyFunc", "Send"])
def test_what_reaches_outside_is_refused_by_name_with_its_reason(name: str, model: Path) -> None:
    changed(model, lambda graph: graph.graph_def.node.add(name="somewhere", op=name))
    with pytest.raises(
        RefusedOperationError, match=f"operations that are not allowed: {name} .*at somewhere"
    ) as caught:
        lint(model)
    assert caught.value.code == "model.refused-operation"
    assert class_of()[name].does in caught.value.message
    assert "dangerous_operations" in (caught.value.hint or "")


def test_it_is_found_in_functions_that_nothing_calls_as_well(model: Path) -> None:
    changed(model, lambda graph: function(graph, "f", pb.NodeDef(name="p", op="Print")))
    (found,) = find(model, read_saved_model(model))
    assert (found.operation, found.nodes) == ("Print", ("f/p",))


def test_an_operation_that_tensorflow_does_not_have_is_refused(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        graph.graph_def.node.add(name="a", op="SentencepieceOp")
        graph.graph_def.node.add(name="b", op="our_function")
        function(graph, "our_function")

    changed(model, add)
    expected = rf"SentencepieceOp is not an operation of TensorFlow {TENSORFLOW_VERSION}: it belongs to TensorFlow Text"
    with pytest.raises(RefusedOperationError, match=expected):
        lint(model)
    assert names(model) == ["SentencepieceOp"]


@pytest.mark.parametrize(
    ("operation", "library"),
    [
        ("TFText>WhitespaceTokenizeWithOffsetsV2", "TensorFlow Text (tensorflow_text)"),
        ("CaseFoldUTF8", "TensorFlow Text (tensorflow_text)"),
        ("SimpleMLInferenceOpWithHandle", "TensorFlow Decision Forests (tensorflow_decision_forests)"),
        ("OurOwn", "it needs a library whose code was not reviewed"),
    ],
)
def test_an_operation_of_another_library_is_allowed_only_for_a_server_that_has_libraries(
    operation: str, library: str, model: Path
) -> None:
    changed(model, lambda graph: graph.graph_def.node.add(name="a", op=operation))
    with pytest.raises(RefusedOperationError) as caught:
        lint(model, dangerous_operations=[operation])
    assert library in caught.value.message
    assert "The embedded server loads only TensorFlow's own library" in (caught.value.hint or "")
    allowed = lint(model, dangerous_operations=[operation], custom_operations=True)
    assert [found.operation for found in allowed.allowed] == [operation]


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


def two_graphs(folder: Path, *tags: tuple[str, ...]) -> Path:
    """Add a graph to the SavedModel in ``folder`` for each set of tags. The first graph reads a file."""
    path = folder / "saved_model.pb"
    message = pb.SavedModel.FromString(path.read_bytes())
    plain = pb.MetaGraphDef()
    plain.CopyFrom(message.meta_graphs[0])
    del message.meta_graphs[:]
    for each in tags:
        graph = message.meta_graphs.add()
        graph.CopyFrom(plain)
        graph.meta_info_def.tags[:] = each
    message.meta_graphs[0].graph_def.node.add(name="read", op="ReadFile")
    path.write_bytes(message.SerializeToString())
    return folder


@pytest.mark.parametrize(
    "tags",
    [(("serve",), ("serve",)), (("serve", "serve"), ("serve",)), (("serve",), ("serve", "serve"), ("serve", "gpu"))],
)
def test_two_graphs_with_one_set_of_tags_are_refused(tags: Any, model: Path) -> None:
    with raises(ModelCode.AMBIGUOUS, match="is ambiguous: 2 graphs have the tags serve") as caught:
        lint(two_graphs(model, *tags))
    assert caught.value.code == "model.ambiguous"


def test_the_order_of_tags_does_not_matter(model: Path) -> None:
    folder = two_graphs(model, ("gpu", "serve"), ("serve",))
    for tags in (["serve", "gpu"], ["gpu", "serve", "gpu"]):
        with pytest.raises(RefusedOperationError, match="ReadFile"):
            lint(folder, tags=tags)
    with raises(ModelCode.AMBIGUOUS):
        lint(two_graphs(folder, ("gpu", "serve"), ("serve", "gpu")), tags=["serve", "gpu"])


def test_a_graph_that_is_not_served_is_judged_as_well_but_may_keep_state(model: Path) -> None:
    two_graphs(model, ("train",), ("serve",))
    assert names(model) == ["ReadFile"]

    def train(graph: pb.MetaGraphDef) -> None:
        del graph.graph_def.node[-1]
        graph.graph_def.node.add(name="assign", op="AssignVariableOp")
        next(node for node in graph.graph_def.node if node.name == "y").input.append("^assign")

    assert names(changed(model, train)) == []
    with pytest.raises(RefusedOperationError, match="AssignVariableOp stores one request's data"):
        lint(model, tags=["train"])


@pytest.mark.parametrize(
    "others", [["saved_model.pbtxt"], ["saved_model.cpb"], ["saved_model.pbtxt", "saved_model.cpb"]]
)
def test_several_forms_of_one_model_are_refused(others: list[str], model: Path) -> None:
    for name in others:
        (model / name).write_bytes(b"")
    with raises(ModelCode.AMBIGUOUS, match=r"contains several SavedModels \(saved_model\.pb, saved_model"):
        lint(model)


def same_node(graph: pb.MetaGraphDef) -> None:
    graph.graph_def.node.add(name="y", op="Identity")


def same_function(graph: pb.MetaGraphDef) -> None:
    function(graph, "f")
    function(graph, "f", pb.NodeDef(name="p", op="Print"))


def same_node_in_a_function(graph: pb.MetaGraphDef) -> None:
    function(graph, "f", pb.NodeDef(name="n", op="Identity"), pb.NodeDef(name="n", op="Print"))


def same_asset_tensor(graph: pb.MetaGraphDef) -> None:
    graph.asset_file_def.add(filename="a").tensor_info.name = "y"
    graph.asset_file_def.add(filename="b").tensor_info.name = "y:0"


@pytest.mark.parametrize("change", [same_node, same_function, same_node_in_a_function, same_asset_tensor])
def test_what_can_be_read_in_two_ways_is_refused(change: Any, model: Path) -> None:
    with raises(ModelCode.AMBIGUOUS, match=r"everal .*'(y|f|n|y:0)'"):
        lint(changed(model, change))


@pytest.mark.parametrize("what", ["nodes", "functions", "nodes of the function 'f'"])
def test_what_has_no_name_is_refused(what: str, model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        if what == "nodes":
            graph.graph_def.node.add(op="Print")
        elif what == "functions":
            function(graph, "", pb.NodeDef(name="x", op="Print"))
        else:
            function(graph, "f", pb.NodeDef(op="Print"))

    with raises(ModelCode.AMBIGUOUS, match=f"some of its {what}.* have no name"):
        lint(changed(model, add))


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "../x", "a/b", "a/../../x", "a\\b", "x\n", "a\0b"])
def test_an_asset_is_a_plain_name(name: str, model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        graph.asset_file_def.add(filename=name).tensor_info.name = "y:0"

    with raises(ModelCode.ASSET_NAME, match="is not the name of a file in the SavedModel's assets folder") as caught:
        lint(changed(model, add))
    assert caught.value.code == "model.asset-name"


def test_a_damaged_list_of_assets_is_refused(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        graph.collection_def["saved_model_assets"].any_list.value.add(value=b"\xff")

    with raises(ModelCode.ASSET_NAME, match="list of assets cannot be parsed"):
        lint(changed(model, add))


def test_an_entry_of_a_map_that_only_tensorflow_reads_is_refused(model: Path) -> None:
    node = pb.NodeDef(name="hidden", op="NoOp").SerializeToString()
    entry = b"\x0a\x01f" + b"\x12\x00" + b"\x3a\x01u"  # the key, the value, and field 7
    node += b"\x2a" + bytes([len(entry)]) + entry
    graph = b"\x0a" + bytes([len(node)]) + node
    meta_graph = b"\x12" + bytes([len(graph)]) + graph
    message = (model / "saved_model.pb").read_bytes()
    (model / "saved_model.pb").write_bytes(message + b"\x12" + bytes([len(meta_graph)]) + meta_graph)
    with raises(ModelCode.AMBIGUOUS, match=r"NodeDef\.attr"):
        lint(model)


def test_the_last_member_of_a_collection_counts_as_in_tensorflow(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        graph.graph_def.node.add(name="table", op="HashTableV2")
        graph.graph_def.node.add(name="name", op="Const")
        graph.graph_def.node.add(name="fill", op="InitializeTableFromTextFileV2", input=["table", "name"])
        graph.graph_def.node.add(name="init", op="NoOp", input=["^fill"])
        graph.collection_def["saved_model_main_op"].node_list.value.append("init")
        asset = pb.AssetFileDef(tensor_info=pb.TensorInfo(name="name:0"), filename="words.txt")
        listed = graph.collection_def["saved_model_assets"]
        listed.any_list.value.add(value=asset.SerializeToString())

    changed(model, add)
    assert names(model) == []
    path = model / "saved_model.pb"
    message = pb.SavedModel.FromString(path.read_bytes())
    hidden = pb.MetaGraphDef.FromString(message.meta_graphs[0].SerializeToString())
    hidden.collection_def["saved_model_assets"].bytes_list = b""  # removes the list of assets
    message.meta_graphs[0].CopyFrom(hidden)
    path.write_bytes(message.SerializeToString())
    assert names(model) == ["InitializeTableFromTextFileV2"]


def identities_in_a_circle(graph: pb.MetaGraphDef) -> None:
    graph.graph_def.node.add(name="a", op="Identity", input=["b"])
    graph.graph_def.node.add(name="b", op="Identity", input=["a"])
    graph.graph_def.node.add(name="r", op="RestoreV2", input=["a"])


def no_input_at_all(graph: pb.MetaGraphDef) -> None:
    graph.graph_def.node.add(name="r", op="RestoreV2")


def two_names_for_one_argument(graph: pb.MetaGraphDef) -> None:
    function(graph, "f", pb.NodeDef(name="r", op="RestoreV2", input=["name"]))
    graph.graph_def.library.function[0].signature.input_arg.add(name="name")
    graph.graph_def.node.add(name="fed", op="Placeholder")
    graph.graph_def.node.add(name="own", op="Const")
    graph.graph_def.node.add(name="one", op="f", input=["fed"])
    graph.graph_def.node.add(name="r", op="f", input=["own", "^one"])


def another_number_of_arguments(graph: pb.MetaGraphDef) -> None:
    two_names_for_one_argument(graph)
    graph.graph_def.node[-1].input[:] = ["fed", "fed"]


def fed_to_another_operation(graph: pb.MetaGraphDef) -> None:
    two_names_for_one_argument(graph)
    call = pb.NodeDef(name="branch", op="If", input=["fed", "fed"])
    call.attr["then_branch"].func.name = "f"
    graph.graph_def.node[-1].CopyFrom(pb.NodeDef(name="r", op="Identity", input=["^branch"]))
    graph.graph_def.node.append(call)


def called_with_anything_as_an_attribute(graph: pb.MetaGraphDef) -> None:
    two_names_for_one_argument(graph)
    call = graph.graph_def.node[-1]
    call.input[:] = ["fed"]
    call.attr["F"].func.name = "f"  # the function calls its attribute with a different name


def a_gradient_of_gradients(graph: pb.MetaGraphDef) -> None:
    two_names_for_one_argument(graph)
    library = graph.graph_def.library
    for number, name in enumerate(("f3", "f2", "f1", "f0")):
        function(graph, name)
        library.gradient.add(function_name=name, gradient_func=("f", "f3", "f2", "f1")[number])
    graph.graph_def.node[-1].CopyFrom(pb.NodeDef(name="r", op="f0"))


def called_with_anything_by_a_call(graph: pb.MetaGraphDef) -> None:
    called_with_anything_as_an_attribute(graph)
    call = graph.graph_def.node[-1]
    call.op = "StatefulPartitionedCall"
    call.attr["f"].func.name = "f"
    call.attr["f"].func.attr["F"].func.name = "f"
    del call.attr["F"]


@pytest.mark.parametrize(
    "change",
    [
        called_with_anything_as_an_attribute,
        called_with_anything_by_a_call,
        a_gradient_of_gradients,
        identities_in_a_circle,
        no_input_at_all,
        two_names_for_one_argument,
        another_number_of_arguments,
        fed_to_another_operation,
    ],
)
def test_a_file_name_that_cannot_be_followed_is_refused(change: Any, model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        change(graph)
        graph.saver_def.filename_tensor_name, graph.saver_def.restore_op_name = "fed:0", "r"

    with pytest.raises(
        RefusedOperationError, match="RestoreV2 reads a file whose name the model computes, which is no"
    ):
        lint(changed(model, add))


def test_a_file_name_is_followed_through_functions(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        function(graph, "inner", pb.NodeDef(name="r", op="RestoreV2", input=["same:output:0"]))
        graph.graph_def.library.function[0].signature.input_arg.add(name="name")
        graph.graph_def.library.function[0].node_def.add(name="same", op="Identity", input=["name"])
        call = {"f": pb.AttrValue(func=pb.NameAttrList(name="inner"))}
        function(graph, "outer", pb.NodeDef(name="c", op="StatefulPartitionedCall", input=["path"], attr=call))
        graph.graph_def.library.function[1].signature.input_arg.add(name="path")
        graph.graph_def.node.add(name="fed", op="Placeholder")
        graph.graph_def.node.add(name="copy", op="Identity", input=["fed"])
        graph.graph_def.node.add(name="restore", op="outer", input=["copy"])
        graph.saver_def.filename_tensor_name, graph.saver_def.restore_op_name = "fed:0", "restore"

    assert names(changed(model, add)) == []


def test_many_functions_that_call_each_other_take_no_long_time(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        for number in range(3000):
            calls = [
                pb.NodeDef(name=f"c{other}", op=f"f{number + other}", input=["b", "a"][:: 2 * other - 3])
                for other in (1, 2)
            ]
            function(graph, f"f{number}", *calls)
            graph.graph_def.library.function[-1].signature.input_arg.extend(
                [pb.OpDef.ArgDef(name="a"), pb.OpDef.ArgDef(name="b")]
            )
        graph.graph_def.node.add(name="r", op="f0", input=["x", "y"])
        graph.saver_def.filename_tensor_name, graph.saver_def.restore_op_name = "x:0", "r"

    lint_me = changed(model, add)
    assert names(lint_me) == ["f3000", "f3001"]


def test_links_to_folders_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (model / "assets").symlink_to(tmp_path / "elsewhere")
    with raises(ModelCode.UNUSABLE_FILE):
        lint(model)


def test_what_will_fail_at_the_first_request_is_a_warning(model: Path) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        y = next(node for node in graph.graph_def.node if node.name == "y")
        graph.graph_def.node.add(name="table", op="HashTableV2")
        graph.graph_def.node.add(name="scale", op="VarHandleOp", device="/device:GPU:0")
        y.input.extend(["^table", "^scale"])
        graph.asset_file_def.add(filename="words.txt").tensor_info.name = "y:0"

    assert lint(changed(model, add)).warnings == (
        "Loading does not initialize the variable 'scale': requests that read it fail.",
        "Loading does not initialize the table 'table': requests that use it fail.",
        "Loading fails: the assets folder does not contain the asset 'words.txt'.",
        "Nodes are pinned to /device:GPU:0, but an enclave can use only the CPU.",
    )

    def restore(graph: pb.MetaGraphDef) -> None:
        graph.graph_def.node.add(name="restore", op="NoOp", input=["^table", "^scale"])
        graph.saver_def.restore_op_name = "restore"

    first, *_ = lint(changed(model, restore)).warnings
    assert first == "The values of its variables are incomplete: variables/variables.index is missing."


def test_what_is_no_model_for_serving(model: Path, tmp_path: Path) -> None:
    with raises(ModelCode.MISSING):
        lint(tmp_path / "nowhere")
    with raises(ModelCode.NOT_A_SAVED_MODEL):
        lint(tmp_path)
    with raises(ModelCode.NO_SERVE_TAG):
        lint(changed(model, lambda graph: graph.meta_info_def.tags.append("gpu")))


def registered() -> Iterable[Any]:
    from tensorflow.core.framework.op_def_pb2 import OpList  # noqa: PLC0415
    from tensorflow.python.client import pywrap_tf_session  # noqa: PLC0415

    listed: Iterable[Any] = OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())).op
    return listed


OUTSIDE = re.compile(
    r"file|path|\bdir(ectory)?\b|address|_ur[il]s?\b|host|server|prefix|descriptor|tensor_name|module|graph_def"
)
HARMLESS = {
    r"Stack.*|.*CTCBeamSearch.*": "top_paths: how many answers",
    r"ShardedFilename|ShardedFilespec": "they only put a name together",
    r"TensorSliceDataset": "is_files: a hint",
    r"_FusedConv2D|_Fused.*Quantized.*|_QuantizedMatMul|_MklNativeFused.*": "memory of the host's processor",
    r"HostConst": "the memory of the host's processor",
    r"(Experimental)?SetStatsAggregatorDataset": "counter_prefix: of a name in memory",
}
STATEFUL_COMPUTES = {
    "Assert": "the error goes to the client whose input failed",
    "CheckNumerics": "likewise",
    "CheckNumericsV2": "likewise",
    "DeepCopy": "a copy in memory",
    "DeviceIndex": "a number",
    "GuaranteeConst": "an identity",
    "SleepIdentityOp": "waits",
    "SleepOp": "waits",
    "StatelessRandomGetAlg": "a number",
    "SyncDevice": "waits for a device",
    "Timestamp": "reads the clock",
    "XlaDequantize": "arithmetic",
}


@pytest.mark.tensorflow
def test_each_operation_that_names_something_outside_is_judged() -> None:
    anywhere = set()
    found = set()
    for operation in registered():
        named = [item.name for item in (*operation.input_arg, *operation.attr) if OUTSIDE.search(item.name)]
        if named and not any(re.fullmatch(pattern, operation.name) for pattern in HARMLESS):
            found.add(operation.name)
            if class_of()[operation.name].allowed is Allowed.ANYWHERE:
                anywhere.add(operation.name)
    assert anywhere == set()
    assert len(found) > 60


@pytest.mark.tensorflow
def test_operations_that_compute_have_no_state_no_reference_no_resource_and_no_function() -> None:
    for operation in registered():
        if class_of()[operation.name].name != "computes":
            continue
        assert not operation.is_stateful or operation.name in STATEFUL_COMPUTES, operation.name
        arguments = (*operation.input_arg, *operation.output_arg)
        assert operation.name == "DebugGradientRefIdentity" or not any(item.is_ref for item in arguments)
        assert not any(item.type == pb.DT_RESOURCE for item in arguments), operation.name
        assert not any(item.type in {"func", "list(func)"} for item in operation.attr), operation.name


ONLY_WITH_GPU_CODE = {"_CopyFromGpuToHost", "_CopyFromHostToGpu"}  # in `tensorflow`, not in `tensorflow-cpu`


@pytest.mark.tensorflow
def test_each_operation_of_tensorflow_has_a_class_and_no_other_has() -> None:
    import tensorflow  # noqa: ICN001, PLC0415

    assert tensorflow.__version__ == TENSORFLOW_VERSION
    here = {operation.name for operation in registered()}
    assert here <= set(class_of()), "run `make operations`"
    assert set(class_of()) - here <= ONLY_WITH_GPU_CODE, "run `make operations`"


def test_what_only_tensorflow_s_optimiser_makes_is_nowhere_in_a_model() -> None:
    """Names with an underscore are TensorFlow's internal operations, whose kernels do not compare sizes.

    Kernels of lowered control flow do.
    """
    control_flow = {"_ArrayToList", "_If", "_ListToArray", "_SwitchN", "_While"}
    found = {name for name, judged in class_of().items() if name.startswith("_") and judged.allowed is Allowed.ANYWHERE}
    assert found == control_flow


def test_each_operation_has_one_class() -> None:
    listed = [name for found in classes() for name in found.operations]
    assert len(listed) == len(set(listed)) > 1900
    assert "unjudged" not in {found.name for found in classes()}
    assert all(found.does and found.why.endswith(".") for found in classes())


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
    words.unlink()
    assert lint(tmp_path / "Module").warnings == ()


@pytest.mark.tensorflow
@pytest.mark.parametrize("sharded", [False, True])
def test_a_model_of_tensorflow_1_with_variables_and_a_table_passes(sharded: bool, tmp_path: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415

    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.string, [None])
        table = v1.lookup.StaticHashTable(
            v1.lookup.TextFileInitializer(
                str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            -1,
        )
        scale = v1.get_variable("scale", initializer=tf.constant(2.0), use_resource=not sharded)
        y = tf.cast(table.lookup(x), tf.float32) * scale
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(tmp_path / "model"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": v1.saved_model.predict_signature_def(inputs={"x": x}, outputs={"y": y})
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
            saver=v1.train.Saver(sharded=sharded),
        )
        builder.save()
    assert lint(tmp_path / "model").warnings == ()


@pytest.mark.parametrize(("vectors", "refused"), [(None, []), (True, []), (False, ["Svd"])])
def test_a_decomposition_is_refused_only_if_it_leaves_its_vectors_unwritten(
    vectors: bool | None, refused: list[str], model: Path
) -> None:
    def add(graph: pb.MetaGraphDef) -> None:
        attributes = {} if vectors is None else {"compute_uv": pb.AttrValue(b=vectors)}
        graph.graph_def.node.add(name="svd", op="Svd", attr=attributes)
        graph.signature_def["serving_default"].outputs["vectors"].name = "svd:1"

    changed(model, add)
    assert names(model) == refused
