from collections.abc import Callable
from pathlib import Path

import pytest

from sealserve.model import saved_model_pb2 as pb

MakeSavedModel = Callable[..., Path]


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    """A frozen graph with an input, a constant and an output, written without TensorFlow."""
    graph = pb.GraphDef(
        node=[
            pb.NodeDef(name="input", op="Placeholder"),
            pb.NodeDef(name="half", op="Const"),
            pb.NodeDef(name="product", op="Mul", input=["input", "half:0", "^half"]),
            pb.NodeDef(name="predict", op="Identity", input=["product"]),
        ]
    )
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    return path


@pytest.fixture
def make_saved_model(tmp_path: Path) -> MakeSavedModel:
    """A function that writes a SavedModel with one signature, without TensorFlow."""

    def make(
        folder: Path = tmp_path / "saved",
        *,
        tags: tuple[str, ...] = ("serve",),
        signature: bool = True,
        op: str = "Add",
    ) -> Path:
        shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=-1), pb.TensorShapeProto.Dim(size=3)])
        graph = pb.MetaGraphDef(
            meta_info_def=pb.MetaGraphDef.MetaInfoDef(tags=tags, tensorflow_version="2.21.0"),
            graph_def=pb.GraphDef(node=[pb.NodeDef(name="x", op="Placeholder"), pb.NodeDef(name="y", op=op)]),
        )
        graph.saver_def.restore_op_name = "restore"
        if signature:
            found = graph.signature_def["serving_default"]
            found.method_name = "tensorflow/serving/predict"
            found.inputs["x"].CopyFrom(pb.TensorInfo(name="x:0", dtype=pb.DT_FLOAT, tensor_shape=shape))
            found.outputs["y"].CopyFrom(
                pb.TensorInfo(name="y:0", dtype=pb.DT_STRING, tensor_shape=pb.TensorShapeProto(unknown_rank=True))
            )
            graph.signature_def["__saved_model_init_op"].outputs["init"].name = "init:0"
        folder.mkdir(parents=True)
        saved = pb.SavedModel(saved_model_schema_version=1, meta_graphs=[graph])
        (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
        return folder

    return make
