import contextlib
from typing import Any

import grpc
import numpy as np
import pytest
from tests.harness.errors import raises
from tests.unit.client.conftest import Behaviour, Connect, Serve

from sealserve.client.call import DeadlineError, RequestRefusedError, ServiceFailedError
from sealserve.client.codes import ClientCode
from sealserve.client.connection_fault import CertificateRequiredError, UnreachableError
from sealserve.client.predict import Predictor, Signature, TensorSpec, VersionState, VersionStatus
from sealserve.client.wire.get_model_metadata_pb2 import GetModelMetadataResponse, SignatureDef, SignatureDefMap


def test_a_prediction_is_a_mapping_that_knows_who_answered(serve: Serve, connect: Connect, pictures: Any) -> None:
    predictor = Predictor([connect(serve(Behaviour(instance="7f3a")))])
    answer = predictor.predict("toy", {"x": pictures, "y": pictures + 1})
    assert sorted(answer) == ["x", "y"]
    assert len(answer) == 2
    np.testing.assert_array_equal(answer["y"], (pictures + 1) * 2)
    assert (answer.model, answer.version, answer.signature) == ("toy", 2, "serving_default")
    assert (answer.instance, answer.channel) == ("7f3a", 0)


def test_tensorflow_serving_names_no_instance(serve: Serve, connect: Connect, pictures: Any) -> None:
    assert Predictor([connect(serve(Behaviour()))]).predict("toy", {"x": pictures}).instance is None


def test_what_is_asked_for_is_what_is_sent(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour()
    predictor = Predictor([connect(serve(behaviour))])
    predictor.predict("toy", {"x": pictures}, signature="other", version=1, outputs=["x"])
    predictor.predict("toy", {"x": pictures})
    pinned, newest = behaviour.requests
    assert (pinned.model_spec.name, pinned.model_spec.signature_name, pinned.model_spec.version.value) == (
        "toy",
        "other",
        1,
    )
    assert list(pinned.output_filter) == ["x"]
    assert not newest.model_spec.HasField("version")
    assert newest.model_spec.signature_name == "serving_default"


def test_channels_take_turns(serve: Serve, connect: Connect, pictures: Any) -> None:
    first, second = Behaviour(), Behaviour()
    predictor = Predictor([connect(serve(first)), connect(serve(second))])
    assert [predictor.predict("toy", {"x": pictures}).channel for _ in range(4)] == [0, 1, 0, 1]
    assert predictor.predict("toy", {"x": pictures}, channel=1).channel == 1
    assert (len(first.requests), len(second.requests)) == (2, 3)
    assert len(predictor.channels) == 2


def test_a_predictor_needs_a_channel() -> None:
    with pytest.raises(ValueError, match="at least one channel"):
        Predictor([])


def test_signatures(serve: Serve, connect: Connect) -> None:
    metadata = Predictor([connect(serve(Behaviour()))]).metadata("toy", version=2)
    assert (metadata.model, metadata.version) == ("toy", 2)
    assert metadata.signatures == {
        "serving_default": Signature(
            method="tensorflow/serving/predict",
            inputs={"input": TensorSpec("float32", (None, 3))},
            outputs={"label": TensorSpec("string", None)},
        )
    }


def test_a_signature_without_a_method_name_is_one(serve: Serve, connect: Connect) -> None:
    reply = GetModelMetadataResponse()
    packed = reply.metadata["signature_def"]
    packed.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    packed.value = SignatureDefMap(signature_def={"f": SignatureDef()}).SerializeToString()
    metadata = Predictor([connect(serve(Behaviour(metadata=reply)))]).metadata("toy")
    assert metadata.signatures == {"f": Signature(method="", inputs={}, outputs={})}


@pytest.mark.parametrize("value", [None, b"\xff"])
def test_metadata_without_signatures_is_refused(serve: Serve, connect: Connect, value: bytes | None) -> None:
    reply = GetModelMetadataResponse()
    if value is not None:
        reply.metadata["signature_def"].type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        reply.metadata["signature_def"].value = value
    with raises(
        ClientCode.METADATA_MISSING, match="The metadata of the model 'toy' .* does not contain readable signatures"
    ) as caught:
        Predictor([connect(serve(Behaviour(metadata=reply)))]).metadata("toy")
    assert caught.value.code == "client.metadata-missing"


def test_version_status(serve: Serve, connect: Connect) -> None:
    assert Predictor([connect(serve(Behaviour()))]).status("toy") == (
        VersionStatus(2, VersionState.AVAILABLE, 0, ""),
        VersionStatus(1, VersionState.END, 8, "no memory left"),
    )


def test_what_the_caller_did_wrong(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour(abort=(grpc.StatusCode.NOT_FOUND, "Servable not found\x1b for request: toy."))
    with pytest.raises(
        RequestRefusedError, match=r"refused the request \(NOT_FOUND\): Servable not found\? "
    ) as caught:
        Predictor([connect(serve(behaviour))]).predict("toy", {"x": pictures})
    assert caught.value.code == "client.refused"
    assert caught.value.exit_status == 2


def test_what_the_service_did_wrong(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour(abort=(grpc.StatusCode.INTERNAL, "internal"))
    with pytest.raises(ServiceFailedError, match=r"failed \(INTERNAL\): internal") as caught:
        Predictor([connect(serve(behaviour))]).predict("toy", {"x": pictures})
    assert caught.value.code == "client.service-failed"


def test_a_service_that_is_not_ready(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour(abort=(grpc.StatusCode.UNAVAILABLE, "shutting down"))
    with pytest.raises(UnreachableError, match="is not available: shutting down"):
        Predictor([connect(serve(behaviour))]).predict("toy", {"x": pictures})


def test_a_service_that_ends_just_now(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour(abort=(grpc.StatusCode.CANCELLED, "CANCELLED"))
    with pytest.raises(UnreachableError, match="stopped before it started to process the request"):
        Predictor([connect(serve(behaviour))]).predict("toy", {"x": pictures})


def test_no_answer_in_time(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour()
    predictor = Predictor([connect(serve(behaviour))])
    behaviour.hold.clear()
    try:
        with pytest.raises(DeadlineError, match=r"at 127\.0\.0\.1:.* did not answer within 0\.2 s") as caught:
            predictor.predict("toy", {"x": pictures}, timeout=0.2)
    finally:
        behaviour.hold.set()
    assert caught.value.code == "client.deadline"


def test_a_lost_connection_is_explained_when_a_new_one_fails(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour()
    channel = connect(serve(behaviour, two_way=False), certificate=None, key=None)
    predictor = Predictor([channel])
    predictor.predict("toy", {"x": pictures})
    serve.stop()
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1"):
        predictor.predict("toy", {"x": pictures})
    serve(behaviour, port=channel.endpoint.port)  # it is back, and now wants certificates
    with pytest.raises(CertificateRequiredError):
        predict_until_connected(predictor, pictures)


def predict_until_connected(predictor: Predictor, pictures: Any) -> None:
    """Predict until gRPC, which waits between its attempts, has tried the connection again."""
    for _ in range(100):
        with contextlib.suppress(UnreachableError):
            predictor.predict("toy", {"x": pictures}, timeout=5)


def test_a_trace_context_is_sent_as_metadata_and_only_with_its_request(serve: Serve, connect: Connect) -> None:
    behaviour = Behaviour()
    predictor = Predictor([connect(serve(behaviour))])
    predictor.predict("toy", {"x": np.zeros(1, np.float32)}, traceparent="a context")
    predictor.predict("toy", {"x": np.zeros(1, np.float32)})
    assert [value for name, value in behaviour.sent if name == "traceparent"] == ["a context"]
