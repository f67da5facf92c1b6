"""The client of the REST API, against a small HTTPS server of the test's own."""

import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.client.call import DeadlineError, RequestRefusedError, ServiceFailedError
from sealserve.client.codes import ClientCode
from sealserve.client.connection_fault import (
    CertificateRefusedError,
    CertificateRequiredError,
    ServiceNameError,
    ServiceUntrustedError,
    UnreachableError,
)
from sealserve.client.predict import TensorSpec
from sealserve.client.rest import RestPredictor, _from_json, _to_json
from sealserve.client.tensors import TensorTypeError
from sealserve.memory_file import memory_file
from sealserve.owner.certificates import fresh_ssl_config
from sealserve.secret import SecretBytes

METADATA = {
    "model_spec": {"name": "m", "signature_name": "", "version": "7"},
    "metadata": {"signature_def": {"signature_def": {
        "serving_default": {
            "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}, "name": "x:0"}},
            "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": {"unknown_rank": True}, "name": "y:0"}},
            "method_name": "tensorflow/serving/predict",
        },
        "two": {
            "inputs": {"x": {"dtype": "DT_STRING"}},
            "outputs": {"a": {"dtype": "DT_STRING"}, "b": {"dtype": "DT_INT64"}},
        },
    }}},
}  # fmt: skip


@dataclass
class Answers:
    """The answers of the server, and the requests that it received."""

    status: int = 200
    body: bytes = b'{"outputs": [2.5, 3.0]}'
    metadata: bytes = json.dumps(METADATA).encode()
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    hangs: threading.Event | None = None
    closes: bool = False
    contexts: list[str | None] = field(default_factory=list)


@dataclass(frozen=True)
class Service:
    site: Site
    port: int
    answers: Answers


def handler_of(answers: Answers) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(None, 200 if answers.status == 200 else answers.status, answers.metadata)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answers.contexts.append(self.headers["traceparent"])
            self._answer(body, answers.status, answers.body)

        def _answer(self, body: Any, status: int, content: bytes) -> None:
            answers.asked.append((self.command, self.path, body))
            if answers.hangs is not None:
                answers.hangs.wait(60)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = answers.closes  # without telling the client, as a server that closes idle ones

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Do not log clients that close their connection."""


@contextmanager
def https(site: Site, answers: Answers) -> Iterator[int]:
    tls = fresh_ssl_config(site.workspace, site.deployment, now=site.now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    with memory_file(tls.server_cert) as chain, memory_file(tls.server_key.reveal()) as key:
        context.load_cert_chain(chain, key)
    if tls.custom_ca is not None:
        context.load_verify_locations(cadata=tls.custom_ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    server = Quiet(("127.0.0.1", 0), handler_of(answers))
    # The handshake is done in the thread of each connection.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("site"))
    made.certify()
    return made


@pytest.fixture
def service(site: Site) -> Iterator[Service]:
    answers = Answers()
    with https(site, answers) as port:
        yield Service(site, port, answers)


def client(service: Service, **changes: Any) -> RestPredictor:
    user = service.site.workspace.user
    settings: dict[str, Any] = {
        "server_name": service.site.deployment.service.name,
        "ca": user.service_ca.read_bytes(),
        "certificate": user.certificate.read_bytes(),
        "key": SecretBytes(user.key.read_bytes()),
        **changes,
    }
    return RestPredictor(f"127.0.0.1:{service.port}", **settings)


def ask(service: Service, **changes: Any) -> Any:
    with client(service, **changes) as asked:
        return asked.predict("m", {"x": np.array([1.0, 2.0], np.float32)})


def test_a_model_is_asked_in_columns_and_answers_with_its_version(service: Service) -> None:
    found = ask(service)
    assert found["y"].dtype == np.float32
    assert (found["y"].tolist(), found.version, found.signature) == ([2.5, 3.0], 7, "serving_default")
    assert service.answers.asked == [
        ("GET", "/v1/models/m/metadata", None),
        ("POST", "/v1/models/m/versions/7:predict", {"signature_name": "serving_default", "inputs": {"x": [1.0, 2.0]}}),
    ]


def test_a_trace_context_is_sent_as_a_header(service: Service) -> None:
    with client(service) as asked:
        asked.predict("m", {"x": np.zeros(1, np.float32)}, traceparent="a context")
        asked.predict("m", {"x": np.zeros(1, np.float32)})
    assert service.answers.contexts == ["a context", None]


def test_versions_labels_and_names_are_parts_of_the_path(service: Service) -> None:
    with client(service) as asked:
        asked.metadata("m", version=3)
        asked.metadata("m", label="stable")
        asked.metadata("m", label="stable")  # it is known
        asked.metadata("a/b:ä", version=0)
    assert [path for _, path, _ in service.answers.asked] == [
        "/v1/models/m/versions/3/metadata",
        "/v1/models/m/labels/stable/metadata",
        "/v1/models/a%2Fb%3A%C3%A4/versions/0/metadata",
    ]


def test_several_outputs_have_names_and_strings_are_bytes(service: Service) -> None:
    service.answers.body = json.dumps({"outputs": {"a": ["x", {"b64": "/w=="}], "b": [[2**53 + 1]]}}).encode()
    with client(service) as asked:
        found = asked.predict("m", {"x": np.array([b"\xff", "ä"], object)}, signature="two")
    assert (found["a"].tolist(), found["b"].tolist()) == ([b"x", b"\xff"], [[2**53 + 1]])
    assert service.answers.asked[-1][2]["inputs"] == {"x": [{"b64": "/w=="}, "ä"]}


@pytest.mark.parametrize(
    "body",
    [
        b'{"outputs": {"a": []}}',
        b'{"outputs": {"a": [1], "b": [1]}}',
        b'{"outputs": {"a": [{"b64": "!"}], "b": [1]}}',
        b'{"outputs": {"a": [], "b": [[1], [2, 3]]}}',
        b'{"outputs": {"a": [], "b": ["x"]}}',
        b'{"outputs": {"a": [], "b": [1e999]}}',
        b'{"outputs": {"a": [], "b": [99999999999999999999]}}',
        b'{"outputs": {"a": %b, "b": [1]}}' % (b"[" * 900 + b"]" * 900),
        b'{"outputs": {"a": [], "b": %b}}' % (b"[" * 900 + b"1" + b"]" * 900),
        b'{"outputs": [1]}',
        b'{"predictions": [1]}',
        b"{}",
    ],
)
def test_an_answer_that_does_not_fit_the_signature_is_an_error(service: Service, body: bytes) -> None:
    service.answers.body = body
    with client(service) as asked, raises(ClientCode.TENSOR_MALFORMED):
        asked.predict("m", {"x": np.array(["a"], object)}, signature="two")


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"[" * 100_000, b'{"outputs": '])
def test_an_answer_that_is_not_a_json_object_is_an_error(service: Service, body: bytes) -> None:
    service.answers.body = body
    with pytest.raises(ServiceFailedError, match="failed \\(status 200\\): no details"):
        ask(service)


@pytest.mark.parametrize("metadata", [b"{}", b'{"model_spec": 1}', b'{"model_spec": {"version": "x"}}'])
def test_metadata_that_cannot_be_read_is_an_error(service: Service, metadata: bytes) -> None:
    service.answers.metadata = metadata
    with raises(
        ClientCode.METADATA_MISSING, match="The metadata of the model 'm' .* does not contain readable signatures"
    ):
        ask(service)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, RequestRefusedError),
        (404, RequestRefusedError),
        (413, RequestRefusedError),
        (429, ServiceFailedError),
        (500, ServiceFailedError),
        (503, UnreachableError),
        (504, DeadlineError),
    ],
)
def test_a_status_becomes_the_error_that_grpc_has_for_it(
    service: Service, status: int, expected: type[Exception]
) -> None:
    service.answers.status, service.answers.metadata = status, b'{"error": "what\\n\\u001b[31m is wrong."}'
    with pytest.raises(expected, match=r"what \?\[31m is wrong\."):
        ask(service)


def test_a_connection_that_was_closed_while_it_was_idle_is_replaced(service: Service) -> None:
    service.answers.closes = True
    with client(service) as asked:
        for _ in range(3):
            assert asked.predict("m", {"x": np.array([1.0], np.float32)})["y"].tolist() == [2.5, 3.0]


def test_a_service_that_does_not_answer_in_time(service: Service) -> None:
    service.answers.hangs = threading.Event()
    try:
        with client(service) as asked, pytest.raises(DeadlineError, match=r"did not answer within 0\.2 s"):
            asked.metadata("m", timeout=0.2)
    finally:
        service.answers.hangs.set()


def test_who_answers_is_verified(service: Service, tmp_path: Path) -> None:
    with pytest.raises(ServiceNameError, match=r"another name: expected other\.example\.com"):
        ask(service, server_name="other.example.com")
    stranger = make_site(tmp_path / "stranger")
    stranger.certify()
    with pytest.raises(ServiceUntrustedError):
        ask(service, ca=stranger.workspace.user.service_ca.read_bytes())
    with pytest.raises(CertificateRequiredError):
        ask(service, certificate=None, key=None)
    others = stranger.workspace.user
    with pytest.raises(CertificateRefusedError):
        ask(service, certificate=others.certificate.read_bytes(), key=SecretBytes(others.key.read_bytes()))
    assert service.answers.asked == []


def test_nobody_there(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"Connecting to .* failed: "):
        ask(Service(service.site, port, service.answers))


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["2026-01-01"], "datetime64[D]")])
def test_values_that_json_does_not_have(array: Any) -> None:
    with pytest.raises(TensorTypeError, match="cannot be sent over REST"):
        _to_json(array)


def test_numbers_survive() -> None:
    for value in (np.float32(0.1), np.float64(1e-300), np.int64(-(2**63)), np.uint64(2**64 - 1), np.bool_(True)):
        spec = TensorSpec(value.dtype.name, ())
        again = _from_json("y", json.loads(json.dumps(_to_json(np.array(value)))), spec)
        assert again.dtype == value.dtype
        assert again[()] == value
    assert np.isnan(_from_json("y", json.loads("[NaN]"), TensorSpec("float32", (None,)))).all()
