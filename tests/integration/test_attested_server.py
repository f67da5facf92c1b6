"""An attested model server in a process of its own: TLS, evidence and receipts, over gRPC and REST."""

import http.client
import json
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from scripts.attested_example import Example
from tests.harness.attested_identity import PROGRAM, server_certificate, verified
from tests.harness.certificates import NAME
from tests.harness.model_server import (
    LONG,
    Process,
    free_port,
    half_plus_two,
    predict_request,
    prediction_stub,
    refused,
)

from sealserve.attestation.keyset import spki_digest
from sealserve.attested.evidence_conversation import EvidenceRequest
from sealserve.attested.evidence_service_pb2 import EvidenceRequest as RequestMessage
from sealserve.attested.evidence_service_pb2 import EvidenceResponse
from sealserve.attested.receipt import ReceiptClaims, verify_receipt
from sealserve.canonical_document import FileListDocument, ListedFile
from sealserve.model_digest import model_digest
from sealserve.serving.open_inference import open_inference_grpc_pb2 as inference
from sealserve.serving_interface import EVIDENCE_METHOD, EVIDENCE_PATH, RECEIPT_HEADER

BODY = json.dumps({"instances": [1.0, 2.0, 5.0]}).encode()
PREDICT = "/v1/models/m:predict"
METRICS = "/monitoring/prometheus/metrics"


class AttestedProcess:
    """A running attested server, and its users."""

    def __init__(self, folder: Path, model: Path, *flags: str) -> None:
        self.rest, self.metrics = free_port(), free_port()
        self.process = Process(
            [
                *(f"--model_base_path={model}", "--port=0", f"--rest_api_port={self.rest}"),
                f"--monitoring_port={self.metrics}",
                "--dangerous_operations=WriteFile",  # the model of the tests has a signature that writes
                *flags,
            ],
            ("-c", PROGRAM, str(folder)),
        )
        self.grpc = self.process.port()
        self.ca = (folder / "ca.pem").read_bytes()
        self.example = Example(folder / "user")

    def channel(self) -> grpc.Channel:
        options = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(f"127.0.0.1:{self.grpc}", grpc.ssl_channel_credentials(self.ca), options)

    def ask(
        self, path: str, body: bytes | None = None, method: str = "", *, port: int = 0, **headers: str
    ) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPSConnection(
            NAME, port or self.rest, timeout=LONG, context=ssl.create_default_context(cadata=self.ca.decode())
        )
        plain = socket.create_connection(("127.0.0.1", port or self.rest), LONG)
        connection.sock = connection._context.wrap_socket(plain, server_hostname=NAME)  # type: ignore[attr-defined]
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content, response.headers


def listed(model: Path) -> tuple[Path, str]:
    """Write the file list of a model with one version; return its path and the model's digest."""
    files = {
        path.relative_to(model / "1").as_posix(): (path.stat().st_size, sha256(path.read_bytes()).hexdigest())
        for path in sorted((model / "1").rglob("*"))
        if path.is_file()
    }
    rows = tuple(
        ListedFile(path=f"{model.name}/1/{path}", size=size, sha256=digest) for path, (size, digest) in files.items()
    )
    place = model.parent / "files.json"
    place.write_text(FileListDocument(version=1, files=rows).model_dump_json())
    return place, model_digest(files)


@pytest.fixture(scope="module")
def digest(model: Path) -> str:
    return listed(model)[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[AttestedProcess]:
    files, _ = listed(model)
    started = AttestedProcess(
        tmp_path_factory.mktemp("attested"),
        model,
        f"--file_list={files}",
        "--rest_api_enable_cors_support",
        "--rest_api_enable_gzip_responses",
    )
    yield started
    started.process.close()


def evidence(channel: grpc.Channel, nonce: bytes) -> bytes:
    call: Any = channel.unary_unary(EVIDENCE_METHOD)
    return EvidenceResponse.FromString(call(RequestMessage(nonce=nonce).SerializeToString(), timeout=LONG)).evidence


def over_grpc(server: AttestedProcess, request: EvidenceRequest) -> bytes:
    with server.channel() as channel:
        return evidence(channel, request.nonce)


def over_rest(server: AttestedProcess, request: EvidenceRequest) -> bytes:
    return server.ask(f"{EVIDENCE_PATH}?{request.query}")[1]


def test_a_user_verifies_the_server_over_grpc_and_rest(server: AttestedProcess) -> None:
    for port, fetch in (
        (server.grpc, partial(over_grpc, server)),
        (server.rest, partial(over_rest, server)),
    ):
        request = EvidenceRequest()
        found = verified(server.example, request, fetch(request), server_certificate(port, server.ca))
        assert found.keyset == server.example.keyset


def check(server: AttestedProcess, receipt: str, request: bytes, response: bytes, digest: str) -> ReceiptClaims:
    claims = verify_receipt(receipt, request=request, response=response, keyset=server.example.keyset, statement=None)
    assert (claims.model, claims.model_version, claims.model_sha256) == ("m", "1", digest)
    return claims


def test_each_method_gives_a_receipt_on_request(server: AttestedProcess, digest: str) -> None:
    numbers: list[int] = []
    with server.channel() as channel:
        for method, request in requests():
            call: Any = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
            response, ended = call.with_call(request, timeout=LONG, metadata=((RECEIPT_HEADER, "1"),))
            receipt = dict(ended.trailing_metadata())[RECEIPT_HEADER]
            numbers.append(check(server, receipt, request, response, digest).sequence)
            _, ended = call.with_call(request, timeout=LONG)
            assert RECEIPT_HEADER not in dict(ended.trailing_metadata())
    status, content, headers = server.ask(PREDICT, BODY, Sealserve_Receipt="1", Accept_Encoding="gzip")
    assert status == 200
    numbers.append(check(server, headers[RECEIPT_HEADER], BODY, content, digest).sequence)
    assert numbers == list(range(numbers[0], numbers[0] + 6))
    assert RECEIPT_HEADER not in server.ask(PREDICT, BODY)[2]


def test_the_open_inference_protocol_gives_receipts(server: AttestedProcess, digest: str) -> None:
    content = struct.pack("<3f", 1, 2, 5)
    infer = inference.ModelInferRequest(model_name="m", raw_input_contents=[content])
    infer.inputs.add(name="x", datatype="FP32", shape=[3])
    metadata = inference.ModelMetadataRequest(name="m")
    with server.channel() as channel:
        for method, message in (("ModelInfer", infer), ("ModelMetadata", metadata)):
            call: Any = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            request = message.SerializeToString()
            response, ended = call.with_call(request, timeout=LONG, metadata=((RECEIPT_HEADER, "1"),))
            check(server, dict(ended.trailing_metadata())[RECEIPT_HEADER], request, response, digest)
    tensor = {"name": "x", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": len(content)}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    status, answer, headers = server.ask(
        "/v2/models/m/infer", text + content, Sealserve_Receipt="1", Inference_Header_Content_Length=str(len(text))
    )
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    assert answer[int(headers["Inference-Header-Content-Length"]) :] == struct.pack("<3f", 2.5, 3, 4.5)
    check(server, headers[RECEIPT_HEADER], text + content, answer, digest)


def requests() -> Iterator[tuple[str, bytes]]:
    """Yield a request for each method that computes something or describes the model."""
    import tensorflow as tf  # noqa: PLC0415  # the model's fixture has paid for it
    from tensorflow_serving.apis import (  # noqa: PLC0415
        classification_pb2,
        get_model_metadata_pb2,
        inference_pb2,
        regression_pb2,
    )

    yield "Predict", predict_request(x=[1.0, 2.0]).SerializeToString()
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(1.0)
    for name, kind in (
        ("Classify", classification_pb2.ClassificationRequest),
        ("Regress", regression_pb2.RegressionRequest),
    ):
        request = kind()
        request.model_spec.name, request.model_spec.signature_name = "m", name.lower()
        request.input.example_list.examples.append(example)
        yield name, request.SerializeToString()
    several = inference_pb2.MultiInferenceRequest()
    task = several.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "m", "regress"
    several.input.example_list.examples.append(example)
    yield "MultiInference", several.SerializeToString()
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "m"
    yield "GetModelMetadata", metadata.SerializeToString()


def test_an_error_has_no_receipt(server: AttestedProcess) -> None:
    with server.channel() as channel:
        request = predict_request("missing", x=[1.0])
        error: Any = refused(
            lambda: prediction_stub(channel).Predict(request, timeout=LONG, metadata=((RECEIPT_HEADER, "1"),))
        )
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert RECEIPT_HEADER not in dict(error.trailing_metadata())
    status, _, headers = server.ask(PREDICT, b"{}", Sealserve_Receipt="1")
    assert (status, headers[RECEIPT_HEADER]) == (400, None)


def test_a_renewed_certificate_is_used_and_open_connections_stay(server: AttestedProcess) -> None:
    first = server_certificate(server.grpc, server.ca)
    kept = http.client.HTTPSConnection("127.0.0.1", server.rest, timeout=LONG, context=_unnamed(server.ca))
    with server.channel() as channel:
        assert half_plus_two(channel, 2.0) == [3.0]
        kept.request("POST", PREDICT, BODY)
        kept.getresponse().read()
        server.process.signal(signal.SIGUSR1)
        # The REST port looks once a second. The log line says that it has looked.
        server.process.wait_for("new connections use the renewed certificate")
        assert half_plus_two(channel, 2.0) == [3.0]
        kept.request("POST", PREDICT, BODY)
        answer = kept.getresponse()
        assert (answer.status, answer.will_close) == (200, False)
        answer.read()
    kept.close()
    after = {server_certificate(port, server.ca) for port in (server.grpc, server.rest)}
    assert first not in after
    assert len(after) == 1
    keys = {spki_digest(x509.load_der_x509_certificate(found).public_key()) for found in (first, *after)}
    assert keys == {server.example.keyset.tls_key_digest}
    request = EvidenceRequest()
    with server.channel() as channel:
        verified(server.example, request, evidence(channel, request.nonce), after.pop())


def test_failed_renewals_are_counted_while_the_server_answers(server: AttestedProcess) -> None:
    server.process.signal(signal.SIGUSR2)
    failed = b"\nsealserve_server_failed_renewals_total{} 1\n"
    end = time.monotonic() + LONG
    while failed not in (page := server.ask(METRICS, port=server.metrics)[1]):  # it is read once a second
        assert time.monotonic() < end, page
        time.sleep(0.1)
    assert b"\nsealserve_server_certificate_expiry_timestamp_seconds " in page
    with server.channel() as channel:
        assert half_plus_two(channel, 2.0) == [3.0]


def _unnamed(ca: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.decode())
    context.check_hostname = False  # the address is the test's own server
    return context


def test_a_model_that_writes_files_is_not_served(model: Path, tmp_path: Path) -> None:
    flags = [f"--model_base_path={model}", "--port=0", f"--file_list={listed(model)[0]}"]
    process = Process(flags, ("-c", PROGRAM, str(tmp_path)))
    process.wait_for("is not loaded, because the check of its operations failed")
    assert process.ended() != 0
    assert "serving m version" not in process.output
    process.close()
