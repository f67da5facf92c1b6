"""A SavedModel of arbitrary bytes: it is linted, or a typed error rejects it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from sealserve.errors import InputError
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.lint import find, lint
from sealserve.model.saved_model import describe, read_saved_model


def seeds() -> Iterator[bytes]:
    """Yield SavedModels with functions that call each other, all kinds of signatures, and forbidden operations."""
    graph = pb.MetaGraphDef(meta_info_def=pb.MetaGraphDef.MetaInfoDef(tags=["serve"]))
    yield pb.SavedModel(meta_graphs=[graph]).SerializeToString()
    call = {"f": pb.AttrValue(func=pb.NameAttrList(name="g"))}
    branches = {"b": pb.AttrValue(list=pb.AttrValue.ListValue(func=[pb.NameAttrList(name="f")]))}
    graph.graph_def.node.add(name="y", op="f", input=["y:0", "^z"], attr=branches)
    graph.graph_def.node.add(name="z", op="SaveV2")
    graph.graph_def.library.function.add(
        signature=pb.OpDef(name="f"), node_def=[pb.NodeDef(name="n", op="g", attr=call)]
    )
    graph.graph_def.library.function.add(signature=pb.OpDef(name="g"), node_def=[pb.NodeDef(name="n", op="Print")])
    composite = pb.TensorInfo.CompositeTensor(components=[pb.TensorInfo(name="y:0")])
    graph.signature_def["s"].outputs["o"].composite_tensor.CopyFrom(composite)
    graph.signature_def["s"].inputs["i"].coo_sparse.indices_tensor_name = "z:0"
    yield pb.SavedModel(meta_graphs=[graph]).SerializeToString()
    _add_loading(graph)
    yield pb.SavedModel(meta_graphs=[graph]).SerializeToString()


def _add_loading(graph: pb.MetaGraphDef) -> None:
    """Add an initializer and a restore operation: both kinds of assets, a path in a variable, gradients, a device."""
    assign = ["path", "fed"]
    for name, operation, inputs in (
        *(("fed", "Placeholder", []), ("path", "VarHandleOp", []), ("assign", "AssignVariableOp", assign)),
        *(("read", "ReadVariableOp", ["path"]), ("table", "HashTableV2", [])),
        *(("fill", "InitializeTableFromTextFileV2", ["table", "read"]), ("init", "NoOp", ["^fill", "^assign"])),
        *(("copy", "Identity", ["fed"]), ("restore", "h", ["copy"])),
    ):
        graph.graph_def.node.add(name=name, op=operation, input=inputs, device="/device:GPU:0")
    restore = pb.NodeDef(name="r", op="RestoreV2", input=["name"])
    signature = pb.OpDef(name="h", input_arg=[pb.OpDef.ArgDef(name="name")])
    graph.graph_def.library.function.add(signature=signature, node_def=[restore]).attr["api_implements"].s = b"i"
    graph.graph_def.library.gradient.add(function_name="h", gradient_func="g")
    graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "init"
    graph.collection_def["saved_model_main_op"].node_list.value.append("init")
    graph.saver_def.filename_tensor_name, graph.saver_def.restore_op_name = "fed:0", "restore"
    asset = graph.asset_file_def.add(filename="words.txt")
    asset.tensor_info.name = "fed:0"
    graph.collection_def["saved_model_assets"].any_list.value.add(value=asset.SerializeToString())


def _lint_all(folder: Path) -> None:
    rejected = find(folder, read_saved_model(folder))
    lint(folder, dangerous_operations=[found.operation for found in rejected], custom_operations=True)


def fuzz(data: bytes) -> None:
    """Lint and describe ``data``."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "saved_model.pb").write_bytes(data)
        for look in (_lint_all, describe):
            try:
                look(Path(folder))
            except InputError as error:
                assert error.code.startswith("model.")  # noqa: PT017  # a fuzz target, not a test
