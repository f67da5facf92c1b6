"""A model of a few hundred bytes that TensorFlow loads and serves, written without TensorFlow.

It computes ``y = x / 2 + 2``, and carries a kilobyte of "weights" that its owner would not like to see on a host.

Source: tensorflow/core/framework/{graph,node_def,attr_value,tensor,tensor_shape}.proto of TensorFlow 2.21.
"""

import random
import struct
from pathlib import Path

from sealserve.model import saved_model_pb2 as pb

INPUT = "x"
OUTPUT = "y"
WEIGHTS = random.Random(771177).randbytes(1024)  # noqa: S311  # test data
_FLOAT = b"\x30\x01"  # AttrValue.type = DT_FLOAT
_PRODUCER = b"\x22\x03\x08\xda\x0e"  # GraphDef.versions.producer = 1882


def half_plus_two(x: float) -> float:
    """Return what the model answers."""
    return x / 2 + 2


def frozen_graph(path: Path, *, constant: bool = False) -> Path:
    """Write the model as a frozen graph, and return its path.

    Args:
        path: The file.
        constant: Whether the answer does not depend on the input's value.
    """
    path.write_bytes(_graph(constant=constant).SerializeToString() + _PRODUCER)
    return path


def saved_model(folder: Path, *, constant: bool = False) -> Path:
    """Write the model as a SavedModel with one signature, and return its folder."""
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=-1)])
    meta = pb.MetaGraphDef(
        meta_info_def=pb.MetaGraphDef.MetaInfoDef(tags=["serve"], tensorflow_version="2.21.0"),
        graph_def=pb.GraphDef.FromString(_graph(constant=constant).SerializeToString() + _PRODUCER),
    )
    signature = meta.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    signature.inputs[INPUT].CopyFrom(pb.TensorInfo(name=f"{INPUT}:0", dtype=pb.DT_FLOAT, tensor_shape=shape))
    signature.outputs[OUTPUT].CopyFrom(pb.TensorInfo(name=f"{OUTPUT}:0", dtype=pb.DT_FLOAT, tensor_shape=shape))
    folder.mkdir(parents=True)
    saved = pb.SavedModel(saved_model_schema_version=1, meta_graphs=[meta])
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    return folder


def _graph(*, constant: bool) -> pb.GraphDef:
    factor = 0.0 if constant else 0.5
    return pb.GraphDef(
        node=[
            _node(INPUT, "Placeholder", dtype=_FLOAT, shape=_field(7, _shape(-1))),
            _node("factor", "Const", dtype=_FLOAT, value=_tensor(struct.pack("<f", factor))),
            _node("two", "Const", dtype=_FLOAT, value=_tensor(struct.pack("<f", 2.0))),
            _node("weights", "Const", dtype=_FLOAT, value=_tensor(WEIGHTS, len(WEIGHTS) // 4)),
            _node("product", "Mul", INPUT, "factor", T=_FLOAT),
            _node(OUTPUT, "AddV2", "product", "two", T=_FLOAT),
        ]
    )


def _node(name: str, operation: str, *inputs: str, **attributes: bytes) -> pb.NodeDef:
    """Return a node. Its attributes (field 5) are not in our subset, which keeps what it does not know."""
    node = pb.NodeDef(name=name, op=operation, input=inputs).SerializeToString()
    for key, value in attributes.items():
        node += _field(5, _field(1, key.encode()) + _field(2, value))
    return pb.NodeDef.FromString(node)


def _tensor(content: bytes, *sizes: int) -> bytes:
    """Return an AttrValue that holds a TensorProto of floats."""
    return _field(8, b"\x08\x01" + _field(2, _shape(*sizes)) + _field(4, content))


def _shape(*sizes: int) -> bytes:
    return pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes]).SerializeToString()


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field, as protobuf writes it."""
    length, size = len(content), b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content
