import pytest
from tests.harness.serialised import get_model_metadata, get_model_status

from sealserve.serving.api.model_status import refuse_reload
from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.runtime.protos import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    SignatureDefMap,
)
from sealserve.serving.servables import Health, Servables, State, VersionState

pytestmark = pytest.mark.tensorflow


def metadata_request(*fields: str, model: str | None = "m") -> bytes:
    message = GetModelMetadataRequest(metadata_field=fields)
    if model is not None:
        message.model_spec.name = model
    return bytes(message.SerializeToString())


def status_request(model: str | None = "m", version: int | None = None) -> bytes:
    message = GetModelStatusRequest()
    if model is not None:
        message.model_spec.name = model
    if version is not None:
        message.model_spec.version.value = version
    return bytes(message.SerializeToString())


def test_the_metadata_are_the_signatures(servables: Servables) -> None:
    response = GetModelMetadataResponse.FromString(get_model_metadata(servables, metadata_request("signature_def")))
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 3)
    assert response.metadata["signature_def"].type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "two_inputs", "__saved_model_init_op"} <= set(signatures.signature_def)
    assert signatures.signature_def["two_inputs"].inputs["a"].tensor_shape.dim[1].size == 2


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"\xff", "request.malformed", "The request is not a valid GetModelMetadataRequest message."),
        (metadata_request("signature_def", model=None), "request.model-spec", "Missing ModelSpec"),
        (
            metadata_request(),
            "request.metadata-field",
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (metadata_request("assets"), "request.metadata-field", "Metadata field assets is not supported"),
        (
            metadata_request("signature_def", model="other"),
            "request.servable-not-found",
            "Servable not found for request: Latest(other)",
        ),
    ],
)
def test_metadata_that_are_refused(servables: Servables, content: bytes, code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        get_model_metadata(servables, content)
    assert (caught.value.code, caught.value.message) == (code, message)


@pytest.mark.parametrize("version", [None, 3])
def test_the_status_of_a_version_that_is_there(servables: Servables, version: int | None) -> None:
    response = GetModelStatusResponse.FromString(get_model_status(servables, status_request(version=version)))
    (row,) = response.model_version_status
    assert (row.version, row.state, row.HasField("status")) == (3, 30, True)
    assert (row.status.error_code, row.status.error_message) == (0, "")


def test_every_state_and_its_error_is_told_the_latest_first() -> None:
    table = Servables()
    failed = Health(status=Status.DATA_LOSS, message="saved_model.pb is not the listed one")
    for version, state in enumerate(State, 1):
        table.set_state("m", version, VersionState(state=state))
    table.set_state("m", 9, VersionState(state=State.END, health=failed))
    rows = GetModelStatusResponse.FromString(get_model_status(table, status_request())).model_version_status
    assert [(row.version, row.state) for row in rows] == [(9, 50), (5, 50), (4, 40), (3, 30), (2, 20), (1, 10)]
    assert (rows[0].status.error_code, rows[0].status.error_message) == (15, "saved_model.pb is not the listed one")


@pytest.mark.parametrize(
    ("content", "code", "status", "message"),
    [
        (
            b"\xff",
            "request.malformed",
            Status.INVALID_ARGUMENT,
            "The request is not a valid GetModelStatusRequest message.",
        ),
        (status_request(model=None), "request.model-spec", Status.INVALID_ARGUMENT, "Missing ModelSpec"),
        (
            status_request("other"),
            "request.servable-not-found",
            Status.NOT_FOUND,
            "Could not find any versions of model other",
        ),
        (
            status_request("m", 7),
            "request.servable-not-found",
            Status.NOT_FOUND,
            "Could not find version 7 of model m",
        ),
    ],
)
def test_a_status_that_is_refused(
    servables: Servables, content: bytes, code: str, status: Status, message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        get_model_status(servables, content)
    assert (caught.value.code, caught.value.status, caught.value.message) == (code, status, message)


def test_a_reload_is_refused_whatever_it_asks_for() -> None:
    with pytest.raises(RequestError, match="cannot be changed by clients") as caught:
        refuse_reload()
    assert (caught.value.code, caught.value.status) == ("request.reload-refused", Status.PERMISSION_DENIED)
