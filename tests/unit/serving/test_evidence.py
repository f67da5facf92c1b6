"""Requests for evidence: hostile nonces and messages, floods, and an identity that is slow."""

import threading
from typing import Any

import grpc
import pytest
from scripts.attested_example import Example
from tests.harness.attested_identity import AttestedService
from tests.harness.errors import raises
from tests.harness.served import LONG, Served, served

from sealserve.attested.evidence import ServiceEvidence
from sealserve.attested.evidence_conversation import EvidenceRequest as Conversation
from sealserve.attested.evidence_service_pb2 import EvidenceRequest, EvidenceResponse
from sealserve.serving.evidence import PEER, TOTAL, Evidence
from sealserve.serving.request_errors import RequestCode
from sealserve.serving.wire.lanes import Lane
from sealserve.serving.wire.rpc import Route, handlers
from sealserve.serving_interface import EVIDENCE_METHOD

NONCE = bytes(range(32))
TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> AttestedService:
    return AttestedService(tmp_path_factory.mktemp("service"))


@pytest.fixture
def evidence(service: AttestedService) -> Evidence:
    return Evidence(service.identity, clock=lambda: 100.0)


def message(nonce: bytes) -> bytes:
    return EvidenceRequest(nonce=nonce).SerializeToString()


def test_both_protocols_give_the_same_document(evidence: Evidence, service: AttestedService) -> None:
    content = EvidenceResponse.FromString(evidence.answer_message(message(NONCE))).evidence
    assert content == evidence.answer_query(f"nonce={TEXT}") == service.example.service().answer(NONCE)
    assert evidence.answer_query(Conversation(nonce=NONCE).query) == content
    ServiceEvidence.parse(content)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 200])
def test_a_nonce_of_another_size_is_rejected(evidence: Evidence, size: int) -> None:
    with raises(RequestCode.EVIDENCE_MALFORMED, match=f"expected a nonce of 32 bytes, got {size}"):
        evidence.answer_message(message(bytes(size)))


def test_a_large_message_is_rejected_before_it_is_parsed(evidence: Evidence) -> None:
    with raises(RequestCode.EVIDENCE_MALFORMED, match="expected at most 256 bytes, got 257"):
        evidence.answer_message(bytes(257))


@pytest.mark.parametrize("content", [b"\x0a\x20short", b"\xff\xff\xff", b"\x0b"])
def test_bytes_that_are_not_a_message(evidence: Evidence, content: bytes) -> None:
    with raises(RequestCode.MALFORMED, match="not a valid EvidenceRequest message"):
        evidence.answer_message(content)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "nonce",
        "nonce=",
        f"nonce={TEXT[:-1]}",
        f"nonce={TEXT}A",
        f"nonce={TEXT}=",
        f"nonce={TEXT[:-1]}9",  # the unused bits of the last character are not zero
        f"nonce={TEXT[:-1]}+",
        f"nonce={TEXT[:-1]}%38",
        f"nonce={TEXT}&nonce={TEXT}",
        f"nonce={TEXT}&x=1",
        f"x=1&nonce={TEXT}",
        f"Nonce={TEXT}",
        f"nonce={TEXT}\n",
        f"nonce= {TEXT}",
        "nonce=" + "Ａ" * 43,  # noqa: RUF001  # a full-width letter
        "nonce=" + "A" * 8000,
    ],
)
def test_a_query_in_another_form_is_rejected(evidence: Evidence, query: str) -> None:
    with raises(RequestCode.EVIDENCE_MALFORMED, match="expected the query nonce= with 32 bytes in base64url"):
        evidence.answer_query(query)


def test_a_flood_is_rejected_and_told_when_to_retry(evidence: Evidence) -> None:
    for _ in range(PEER.burst):
        evidence.admit(b"flood")
    with raises(RequestCode.EVIDENCE_RATE, match="too many requests for evidence") as caught:
        evidence.admit(b"flood")
    error: Any = caught.value
    assert error.retry_after == pytest.approx(1 / PEER.per_second)
    evidence.admit(b"another")
    for number in range(TOTAL.burst - PEER.burst - 1):
        evidence.admit(b"%d" % number)
    with raises(RequestCode.EVIDENCE_RATE, match="too many requests for evidence") as caught:
        evidence.admit(b"the next")
    error = caught.value
    assert error.retry_after == pytest.approx(1 / TOTAL.per_second)


class SlowIdentity:
    """An identity whose evidence takes as long as the test wants."""

    def __init__(self, example: Example) -> None:
        self._service = example.service()
        self.started, self.opened = threading.Event(), threading.Event()

    def evidence(self, nonce: bytes) -> bytes:
        self.started.set()
        assert self.opened.wait(LONG)
        return self._service.answer(nonce)


def ask(there: Served, content: bytes | None = None) -> Any:
    return there.call(EVIDENCE_METHOD).future(message(NONCE) if content is None else content, timeout=LONG)


@pytest.mark.usefixtures("transport")
def test_evidence_does_not_delay_other_methods(service: AttestedService) -> None:
    identity: Any = SlowIdentity(service.example)
    evidence = Evidence(identity)
    routes = {
        EVIDENCE_METHOD: Route(method=evidence.answer_message, lane=Lane(running=1, waiting=64), admit=evidence.admit),
        "/s/Predict": Route(method=lambda content, _: content, lane=Lane(running=1, waiting=8)),
    }
    with served(handlers(routes)) as there:
        waiting = [ask(there) for _ in range(PEER.burst)]
        assert identity.started.wait(LONG)
        for number in range(20):
            assert there.call("/s/Predict")(b"%d" % number, timeout=LONG) == b"%d" % number
        identity.opened.set()
        assert {EvidenceResponse.FromString(call.result()).evidence for call in waiting} == {
            service.example.service().answer(NONCE)
        }


@pytest.mark.usefixtures("transport")
def test_a_flood_over_grpc_gets_the_time_of_a_retry(evidence: Evidence) -> None:
    routes = {
        EVIDENCE_METHOD: Route(method=evidence.answer_message, lane=Lane(running=1, waiting=64), admit=evidence.admit)
    }
    with served(handlers(routes)) as there:
        codes = []
        for _ in range(PEER.burst + 5):
            call = ask(there)
            codes.append(call.code())
        assert codes == [grpc.StatusCode.OK] * PEER.burst + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 5
        assert dict(call.trailing_metadata())["grpc-retry-pushback-ms"] == "200"
        assert call.details() == "The server is busy: too many requests for evidence."


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("content", [message(b""), message(bytes(33)), bytes(100_000), b"\xff"])
def test_a_hostile_message_is_the_clients_error(evidence: Evidence, content: bytes) -> None:
    routes = {EVIDENCE_METHOD: Route(method=evidence.answer_message, lane=Lane(running=1, waiting=8))}
    with served(handlers(routes)) as there:
        assert ask(there, content).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert ask(there).code() is grpc.StatusCode.OK
