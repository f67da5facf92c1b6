from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises
from tests.harness.tiny_model import saved_model
from tests.harness.workspaces import Site, make_site

from sealserve.client.tensors import from_proto
from sealserve.client.wire.prediction_log_pb2 import PredictionLog
from sealserve.model import saved_model_pb2 as pb
from sealserve.owner import models
from sealserve.owner.codes import OwnerCode
from sealserve.serving_interface import WARMUP_REQUESTS
from sealserve.tf_record import read_records


def source(folder: Path, **changes: Any) -> Path:
    """Write the tiny model with another input: its ``dtype``, its ``shape``, or no shape."""
    path = saved_model(folder) / "saved_model.pb"
    model = pb.SavedModel.FromString(path.read_bytes())
    signatures = model.meta_graphs[0].signature_def
    info = signatures["serving_default"].inputs["x"]
    if "dtype" in changes:
        info.dtype = changes["dtype"]
    if "shape" in changes:
        del info.tensor_shape.dim[:]
        if changes["shape"] is None:
            info.tensor_shape.unknown_rank = True
        else:
            info.tensor_shape.dim.extend(pb.TensorShapeProto.Dim(size=size) for size in changes["shape"])
    if "signature" in changes:
        signatures[changes["signature"]].CopyFrom(signatures.pop("serving_default"))
    path.write_bytes(model.SerializeToString())
    return folder


def site_of(tmp_path: Path, **changes: Any) -> Site:
    return make_site(tmp_path / "site", source=source(tmp_path / "model", **changes), model={"warm_up": True})


def warm_up(folder: Path) -> list[PredictionLog]:
    return [PredictionLog.FromString(content) for content in read_records(folder / WARMUP_REQUESTS)]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (pb.DT_FLOAT, "float32"), (pb.DT_INT32, "int32"), (pb.DT_UINT8, "uint8"), (pb.DT_BOOL, "bool"),
        (pb.DT_HALF, "float16"), (pb.DT_COMPLEX64, "complex64"), (pb.DT_INT64, "int64"),
    ],
)  # fmt: skip
def test_a_request_of_zeros_fits_the_signature(tmp_path: Path, dtype: int, name: str) -> None:
    folder = site_of(tmp_path, dtype=dtype, shape=[-1, 4, 2]).import_model()
    (log,) = warm_up(folder)
    request = log.predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("half-plus-two", "serving_default")
    array = from_proto(request.inputs["x"])
    assert (array.dtype.name, array.shape) == (name, (1, 4, 2))
    assert not array.any()
    assert (folder / WARMUP_REQUESTS).stat().st_size < 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": None}, r"input x has the shape \[any\]"),
        ({"shape": [-1, -1, 3]}, r"input x has the shape \[\?, \?, 3\]"),
        ({"dtype": pb.DT_STRING}, "input x has the type string"),
        ({"signature": "other"}, "no signature serving_default for Predict"),
    ],
)  # fmt: skip
def test_a_signature_that_leaves_the_inputs_open_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    site = site_of(tmp_path, **changes)
    with raises(OwnerCode.MODEL_WARM_UP, match=message) as caught:
        site.import_model()
    assert "docs/how-to/warm-up.md" in (caught.value.hint or "")
    assert not models.is_imported(site.workspace, site.deployment.model)


def test_a_models_own_requests_are_kept(tmp_path: Path) -> None:
    folder = source(tmp_path / "model")
    own = folder / WARMUP_REQUESTS
    own.parent.mkdir()
    own.write_bytes(b"own requests")
    site = make_site(tmp_path / "site", source=folder, model={"warm_up": True})
    assert (site.import_model() / WARMUP_REQUESTS).read_bytes() == b"own requests"


def test_a_changed_setting_converts_the_model_again(tmp_path: Path) -> None:
    folder = source(tmp_path / "model")
    site = make_site(tmp_path / "site", source=folder)
    assert not (site.import_model() / WARMUP_REQUESTS).exists()
    warm = make_site(tmp_path / "site", source=folder, model={"warm_up": True})
    assert models.stale(warm.workspace, warm.deployment.models) == (warm.deployment.model,)
    again = models.bring_in_again(warm.workspace, warm.deployment.model)
    assert (again.folder / WARMUP_REQUESTS).exists()
    assert models.stale(warm.workspace, warm.deployment.models) == ()


@pytest.mark.tensorflow
def test_tensorflow_reads_the_file(tmp_path: Path) -> None:
    """TensorFlow verifies the checksums, and TensorFlow Serving's message type has the same numbers."""
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here
    from tensorflow_serving.apis import prediction_log_pb2  # noqa: PLC0415  # imports TensorFlow

    folder = site_of(tmp_path, shape=[-1, 4]).import_model()
    (content,) = tf.data.TFRecordDataset(str(folder / WARMUP_REQUESTS)).as_numpy_iterator()
    request = prediction_log_pb2.PredictionLog.FromString(content).predict_log.request
    assert request.model_spec.name == "half-plus-two"
    assert tf.make_ndarray(request.inputs["x"]).tolist() == [[0.0, 0.0, 0.0, 0.0]]
