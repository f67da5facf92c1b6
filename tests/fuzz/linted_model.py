"""A SavedModel of any bytes: it is linted, or a typed error says that it is none."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from sealserve.errors import InputError
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.lint import find
from sealserve.model.saved_model import describe


def seeds() -> Iterator[bytes]:
    """Yield SavedModels with functions that call each other, signatures of all kinds, and refused operations."""
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


def fuzz(data: bytes) -> None:
    """Lint and describe ``data``."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "saved_model.pb").write_bytes(data)
        for look in (find, describe):
            try:
                look(Path(folder))
            except InputError as error:
                assert error.code.startswith("model.")  # noqa: PT017  # no test: what a fuzzer calls
