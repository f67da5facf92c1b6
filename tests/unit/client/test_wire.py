"""Our protobuf messages and the official ones, side by side in one process, have the same bytes."""

import importlib
from typing import Any

import numpy as np
import pytest

from sealserve.client.tensors import data_type_name, from_proto, to_proto
from sealserve.client.wire import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
)

pytestmark = pytest.mark.tensorflow

TENSORFLOW = "tensorflow.core.framework"
SERVING = "tensorflow_serving.apis"
ENUM_THERE = {"error_code"}  # google.rpc's codes there, a plain number here: the same varint

MESSAGES = [
    (tensor_pb2.TensorProto, f"{TENSORFLOW}.tensor_pb2"),
    (tensor_shape_pb2.TensorShapeProto, f"{TENSORFLOW}.tensor_shape_pb2"),
    (model_pb2.ModelSpec, f"{SERVING}.model_pb2"),
    (predict_pb2.PredictRequest, f"{SERVING}.predict_pb2"),
    (predict_pb2.PredictResponse, f"{SERVING}.predict_pb2"),
    (get_model_metadata_pb2.TensorInfo, "tensorflow.core.protobuf.meta_graph_pb2"),
    (get_model_metadata_pb2.SignatureDef, "tensorflow.core.protobuf.meta_graph_pb2"),
    (get_model_metadata_pb2.SignatureDefMap, f"{SERVING}.get_model_metadata_pb2"),
    (get_model_metadata_pb2.GetModelMetadataRequest, f"{SERVING}.get_model_metadata_pb2"),
    (get_model_metadata_pb2.GetModelMetadataResponse, f"{SERVING}.get_model_metadata_pb2"),
    (get_model_status_pb2.StatusProto, f"{SERVING}.status_pb2"),
    (get_model_status_pb2.ModelVersionStatus, f"{SERVING}.get_model_status_pb2"),
    (get_model_status_pb2.GetModelStatusRequest, f"{SERVING}.get_model_status_pb2"),
    (get_model_status_pb2.GetModelStatusResponse, f"{SERVING}.get_model_status_pb2"),
]


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow", reason="TensorFlow comes with sealserve's `server` extra")


@pytest.fixture(scope="module")
def official_predict(tf: Any) -> Any:
    assert tf
    return importlib.import_module(f"{SERVING}.predict_pb2")


def check_fields(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.is_repeated) == (other.number, other.is_repeated)
        assert field.type == other.type or field.name in ENUM_THERE
        if field.message_type is not None:
            assert field.message_type.name == other.message_type.name
        if field.is_repeated:
            assert field.is_packed == other.is_packed
    for nested in ours.nested_types:
        check_fields(nested, theirs.nested_types_by_name[nested.name])


@pytest.mark.parametrize(("ours", "module"), MESSAGES, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.usefixtures("tf")
def test_fields_have_the_official_names_numbers_and_types(ours: Any, module: str) -> None:
    check_fields(ours.DESCRIPTOR, getattr(importlib.import_module(module), ours.DESCRIPTOR.name).DESCRIPTOR)


@pytest.mark.usefixtures("tf")
def test_enumerations_have_the_official_numbers() -> None:
    types = importlib.import_module(f"{TENSORFLOW}.types_pb2")
    status = importlib.import_module(f"{SERVING}.get_model_status_pb2")
    assert set(types_pb2.DataType.items()) <= set(types.DataType.items())
    states = get_model_status_pb2.ModelVersionStatus.State.items()
    assert set(states) == set(status.ModelVersionStatus.State.items())


def arrays() -> list[Any]:
    generator = np.random.default_rng(3)
    numbers = generator.integers(0, 100, (2, 3))
    kinds = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128"
    return [numbers.astype(kind) for kind in kinds.split()] + [np.array([[b"a", b"\xff"], [b"", b"bc"]], object)]


@pytest.mark.parametrize("array", arrays(), ids=lambda array: str(array.dtype))
def test_tensorflow_reads_what_we_send_and_we_read_what_it_sends(tf: Any, array: Any) -> None:
    theirs = importlib.import_module(f"{TENSORFLOW}.tensor_pb2").TensorProto()
    theirs.ParseFromString(to_proto(array).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(theirs), array)
    np.testing.assert_array_equal(tf.io.parse_tensor(theirs.SerializeToString(), theirs.dtype).numpy(), array)
    for sent in (tf.make_tensor_proto(array), tf.make_tensor_proto(tf.constant(array))):
        back = from_proto(tensor_pb2.TensorProto.FromString(sent.SerializeToString()))
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype
    serialized = tf.io.serialize_tensor(tf.constant(array)).numpy()  # TensorFlow's C++, as the server has it
    np.testing.assert_array_equal(from_proto(tensor_pb2.TensorProto.FromString(serialized)), array)
    assert data_type_name(theirs.dtype) == tf.as_dtype(theirs.dtype).name


def test_bfloat16_both_ways(tf: Any) -> None:
    array = tf.constant([1.0, -2.5, 3e38], tf.bfloat16)
    sent = tf.make_tensor_proto(array)
    np.testing.assert_array_equal(
        from_proto(tensor_pb2.TensorProto.FromString(sent.SerializeToString())), array.numpy().astype(np.float32)
    )
    theirs = to_proto(array.numpy()).SerializeToString()
    np.testing.assert_array_equal(tf.io.parse_tensor(theirs, tf.bfloat16).numpy(), array.numpy())


def test_strings_as_content_are_read_as_tensorflow_reads_them(tf: Any) -> None:
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_content=b"\x01\x80\x01a" + b"b" * 128)
    tensor.tensor_shape.dim.add(size=2)
    np.testing.assert_array_equal(from_proto(tensor), tf.io.parse_tensor(tensor.SerializeToString(), tf.string).numpy())


def test_fewer_values_than_elements_are_filled_as_tensorflow_fills_them(tf: Any) -> None:
    for values in ([], [5.0], [5.0, 6.0]):
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=values)
        tensor.tensor_shape.dim.add(size=4)
        np.testing.assert_array_equal(
            from_proto(tensor), tf.io.parse_tensor(tensor.SerializeToString(), tf.float32).numpy()
        )


def test_a_whole_request_and_reply(tf: Any, official_predict: Any) -> None:
    picture = np.ones((1, 2), np.float32)
    ours = predict_pb2.PredictRequest(inputs={"input": to_proto(picture)}, output_filter=["predict"])
    ours.model_spec.name = "resnet50"
    ours.model_spec.version.value = 3
    ours.model_spec.signature_name = "serving_default"
    theirs = official_predict.PredictRequest.FromString(ours.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.version.value) == ("resnet50", 3)
    np.testing.assert_array_equal(tf.make_ndarray(theirs.inputs["input"]), picture)
    assert predict_pb2.PredictRequest.FromString(theirs.SerializeToString()) == ours

    reply = official_predict.PredictResponse(outputs={"predict": tf.make_tensor_proto(picture)})
    reply.model_spec.version.value = 3
    read = predict_pb2.PredictResponse.FromString(reply.SerializeToString())
    np.testing.assert_array_equal(from_proto(read.outputs["predict"]), picture)
    assert read.model_spec.version.value == 3
