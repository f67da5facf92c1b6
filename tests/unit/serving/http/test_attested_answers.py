"""Evidence and receipts over HTTP: hostile queries, floods, CORS, compression, and servers that are not attested."""

import gzip
import http.client
import json
from typing import Any

import pytest
from scripts.attested_example import Example
from tests.harness.attested_identity import AttestedService
from tests.unit.serving.http.test_http_server import Echo, ask, run

from sealserve.attested.evidence import ServiceEvidence
from sealserve.attested.evidence_conversation import EvidenceRequest
from sealserve.attested.receipt import ReceiptClaims, verify_receipt
from sealserve.serving.evidence import PEER, Evidence
from sealserve.serving.http.api import Answer, Content
from sealserve.serving.receipts import Receipts
from sealserve.serving.servables import Servable, Servables
from sealserve.serving_interface import EVIDENCE_PATH

BODY = b'{"instances": [1.0]}'
PREDICT = "/v1/models/m:predict"
DIGEST = "ab" * 32
ORIGIN = "https://site.example"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> AttestedService:
    return AttestedService(tmp_path_factory.mktemp("service"))


class Model(Echo):
    """A REST API whose answers come from version 1 of the model ``m``."""

    def __init__(self) -> None:
        super().__init__()
        session: Any = None
        self.table = Servables()
        self.table.publish(Servable(name="m", version=1, session=session, definitions={}, signatures={}, digest=DIGEST))

    def _run(self, spec: Any, verb: str, content: Content) -> bytes:
        with self.table.use(spec):
            text = super()._run(spec, verb, content)
        if isinstance(content.body, bytearray):
            content.body.clear()  # as after the document has been read
        return text + b" " * 2000


def serve(service: AttestedService | None, scenario: Any, **options: Any) -> None:
    model = Model()
    identity = service.identity if service else None
    evidence = Evidence(service.identity, clock=lambda: 100.0) if service else None
    assert run(scenario, rest=model, receipts=Receipts(identity, model.table), evidence=evidence, **options)


def check(example: Example, receipt: str, request: bytes, response: bytes) -> ReceiptClaims:
    return verify_receipt(receipt, request=request, response=response, keyset=example.keyset, statement=None)


def test_evidence_is_a_document_that_is_not_cached(service: AttestedService) -> None:
    def scenario(port: int) -> None:
        request = EvidenceRequest()
        status, content, headers = ask(port, f"{EVIDENCE_PATH}?{request.query}")
        assert (status, headers["content-type"], headers["cache-control"]) == (200, "application/json", "no-store")
        assert ServiceEvidence.parse(content).keyset == service.example.keyset.to_bytes()
        assert content == service.example.service().answer(request.nonce)

    serve(service, scenario)


@pytest.mark.parametrize("query", ["", "?", "?nonce=", "?nonce=AAAA", "?x", "?nonce=" + "A" * 7000, "?nonce=%00"])
def test_a_hostile_query_is_the_clients_error(service: AttestedService, query: str) -> None:
    def scenario(port: int) -> None:
        status, content, _ = ask(port, EVIDENCE_PATH + query)
        assert status == 400
        assert "expected the query nonce= with 32 bytes in base64url" in json.loads(content)["error"]

    serve(service, scenario)


def test_other_methods_and_paths(service: AttestedService) -> None:
    def scenario(port: int) -> None:
        query = EvidenceRequest().query
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            status, _, headers = ask(port, f"{EVIDENCE_PATH}?{query}", b"x", method=method)
            assert (status, headers["allow"], headers["connection"]) == (405, "GET", "close")
        for path in (
            "/.well-known/sealserve/evidences",
            "/.well-known/sealserve",
            f"{EVIDENCE_PATH}/",
            f"/{EVIDENCE_PATH}",
        ):
            assert ask(port, f"{path}?{query}")[0] == 404

    serve(service, scenario)


def test_a_server_that_is_not_attested_has_neither_evidence_nor_receipts() -> None:
    def scenario(port: int) -> None:
        assert ask(port, f"{EVIDENCE_PATH}?{EvidenceRequest().query}")[:2] == (404, b"")
        status, content, headers = ask(port, PREDICT, BODY, Sealserve_Receipt="1")
        assert (status, json.loads(content)["error"]) == (400, "The server is not attested, so it has no receipts.")
        assert "sealserve-receipt" not in headers
        assert ask(port, PREDICT, BODY)[0] == 200

    serve(None, scenario)


def test_a_flood_on_one_connection_is_told_when_to_retry(service: AttestedService) -> None:
    def scenario(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        statuses = []
        for _ in range(PEER.burst + 3):
            connection.request("GET", f"{EVIDENCE_PATH}?{EvidenceRequest().query}")
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        assert statuses == [200] * PEER.burst + [429] * 3
        assert response.headers["Retry-After"] == "1"
        # Inference on the same connection, and evidence on another, continue.
        connection.request("POST", PREDICT, BODY)
        assert connection.getresponse().status == 200
        connection.close()
        assert ask(port, f"{EVIDENCE_PATH}?{EvidenceRequest().query}")[0] == 200

    serve(service, scenario)


def test_a_receipt_covers_the_bodies(service: AttestedService) -> None:
    def scenario(port: int) -> None:
        _, content, headers = ask(port, PREDICT, BODY, Sealserve_Receipt="1")
        claims = check(service.example, headers["sealserve-receipt"], BODY, content)
        assert (claims.model, claims.model_version, claims.model_sha256) == ("m", "1", DIGEST)
        assert "sealserve-receipt" not in ask(port, PREDICT, BODY)[2]

    serve(service, scenario)


def test_a_response_with_a_receipt_is_not_compressed(service: AttestedService) -> None:
    def scenario(port: int) -> None:
        assert ask(port, PREDICT, BODY, Accept_Encoding="gzip")[2]["content-encoding"] == "gzip"
        _, content, headers = ask(port, PREDICT, BODY, Accept_Encoding="gzip", Sealserve_Receipt="1")
        assert "content-encoding" not in headers
        check(service.example, headers["sealserve-receipt"], BODY, content)

    serve(service, scenario, gzip=True)


def test_requests_that_have_no_receipt(service: AttestedService) -> None:
    def scenario(port: int) -> None:
        packed = ask(port, PREDICT, gzip.compress(BODY), Content_Encoding="gzip", Sealserve_Receipt="1")
        assert (packed[0], "must not have a Content-Encoding" in packed[1].decode()) == (400, True)
        for value in ("0", "true", "", "1, 1", "x" * 8000):
            status, content, _ = ask(port, PREDICT, BODY, Sealserve_Receipt=value)
            assert (status, "expected 1" in json.loads(content)["error"]) == (400, True)
        status, content, _ = ask(port, "/v1/models/m", Sealserve_Receipt="1")
        assert (status, json.loads(content)["error"]) == (400, "Only POST requests have receipts.")
        status, _, headers = ask(port, "/v1/models/other:predict", BODY, Sealserve_Receipt="1")
        assert (status, "sealserve-receipt" in headers) == (404, False)
        assert ask(port, PREDICT, BODY, Sealserve_Receipt="1" * 20_000)[0] == 431

    serve(service, scenario)


def test_web_pages_can_ask_for_receipts_where_cors_is_on(service: AttestedService) -> None:
    def scenario(port: int) -> None:
        for path in (PREDICT, f"{EVIDENCE_PATH}?{EvidenceRequest().query}"):
            status, _, headers = ask(port, path, method="OPTIONS", Origin=ORIGIN)
            assert status == 200
            assert (
                headers["access-control-allow-headers"]
                == "Content-Type, Inference-Header-Content-Length, Sealserve-Receipt"
            )
            headers = ask(port, path, None if path != PREDICT else BODY, Origin=ORIGIN)[2]
            assert (
                headers["access-control-expose-headers"]
                == "Inference-Header-Content-Length, Sealserve-Receipt, Retry-After"
            )

    serve(service, scenario, cors=True)


def test_an_answer_has_no_headers_of_another() -> None:
    assert Answer(200, b"").headers == {}
