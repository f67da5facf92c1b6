"""What a user learns from the verification of a service. `tests/conformance/attested` has the wrong evidence."""

import json
import pickle
import re
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.attested_cases import Cases
from scripts.attested_example import ADDRESS, FIRST_TIME, NOW, Example, digest, p256
from tests.harness.document_faults import faults_of
from tests.harness.errors import raises
from tests.harness.second_verifier import Refused, verify_bundle

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.session_binding import NONCE_SIZE
from sealserve.attested.codes import AttestedCode
from sealserve.attested.evidence import MAXIMUM_BUNDLE, EvidenceBundle
from sealserve.attested.evidence_conversation import EvidenceRequest, PresentedService, parse_nonce
from sealserve.attested.user_policy import parse_user_policy
from sealserve.attested.verification import Step, StepFailedError
from sealserve.errors import SealserveError

TIME = NOW + timedelta(seconds=FIRST_TIME)


def test_each_step_reports_what_it_found(example: Example) -> None:
    found = example.presented().verify(example.policy, now=TIME)
    assert [report.step for report in found.reports] == list(Step)
    texts = [report.text for report in found.reports]
    assert re.search("SIMULATED root [0-9a-f]{64}, which protects nothing", texts[0])
    assert "UpToDate satisfies cloud-smt" in texts[1]
    assert example.release_id in texts[2]
    assert "not revoked according to attestation.service.com" in texts[2]
    assert example.keyset.digest.hex() in texts[3]
    assert found.simulated
    assert found.statement == example.statement()
    assert found.result == example.result()


def test_a_pinned_enclave_needs_no_statement(example: Example, tmp_path_factory: pytest.TempPathFactory) -> None:
    cases = Cases(tmp_path_factory.mktemp("cases"), example)
    policy = parse_user_policy(cases.pinning().encode())
    presented = example.presented(example.evidence(statement=None, attestation_result=None))
    found = presented.verify(policy, now=TIME)
    assert (found.statement, found.result) == (None, None)
    assert "a revocation is not noticed" in found.reports[2].text
    assert verify_bundle(presented.bundle(address=ADDRESS, saved=TIME).to_bytes(), cases.pinning(), TIME)


def test_an_error_names_the_step_and_its_meaning(example: Example) -> None:
    presented = example.presented(example.evidence(nonce_signature=bytes(64)))
    with pytest.raises(StepFailedError) as caught:
        presented.verify(example.policy, now=TIME)
    error = caught.value
    assert (error.step, error.code, error.exit_status) == (Step.FRESHNESS, "evidence.nonce-signature", 3)
    assert error.code == AttestedCode.EVIDENCE_NONCE_SIGNATURE
    assert StepFailedError.code == "evidence.step"
    assert error.message == (
        "Step 5 of 6 (freshness) failed: The identity key of the keyset did not sign the nonce of this request. "
        "The evidence may be a copy from an earlier time, and the enclave may not run now."
    )
    assert error.hint == "Do not send an input to this service."
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (again.step, again.code, str(again)) == (error.step, error.code, str(error))


def test_a_further_connection_needs_only_step_6(example: Example) -> None:
    found = example.presented().verify(example.policy, now=TIME)
    certificate = example.certificate.public_bytes(Encoding.DER)
    found.check_connection(certificate, now=TIME)
    with pytest.raises(StepFailedError, match="Step 6 of 6") as caught:
        found.check_connection(example.certificate_for(p256("attacker")).public_bytes(Encoding.DER), now=TIME)
    assert caught.value.code == "evidence.tls-key"
    with pytest.raises(StepFailedError) as caught:
        found.check_connection(b"", now=TIME)
    assert caught.value.code == "evidence.certificate"
    with pytest.raises(StepFailedError, match="Step 3 of 6") as caught:
        found.check_connection(certificate, now=example.result().expires)
    assert caught.value.code == AttestationCode.TOKEN_EXPIRED


def test_a_time_without_a_zone_is_a_bug_of_the_caller(example: Example) -> None:
    with pytest.raises(ValueError, match="time zone"):
        example.presented().verify(example.policy, now=datetime(2026, 11, 29))  # noqa: DTZ001  # on purpose


def test_a_bundle_verifies_again_later(example: Example) -> None:
    content = example.bundle().to_bytes()
    assert len(content) <= MAXIMUM_BUNDLE
    bundle = EvidenceBundle.parse(content)
    assert (bundle.address, bundle.saved) == (ADDRESS, int(TIME.timestamp()))
    assert PresentedService.of_bundle(bundle).verify(example.policy, now=TIME).keyset == example.keyset


def test_the_second_implementation_refuses_the_same_documents(example: Example) -> None:
    content = example.bundle().to_bytes()
    for fault in faults_of(content, limit=MAXIMUM_BUNDLE):
        with raises(fault.code):
            EvidenceBundle.parse(fault.content)
        with pytest.raises(Refused) as caught:
            verify_bundle(fault.content, example.policy_file, TIME)
        assert (caught.value.step, caught.value.code) == (0, fault.code), fault.name
    document = json.loads(content)
    for name, value in (("type", "sealserve.other"), ("version", 2)):  # the evidence inside
        changed = EvidenceBundle.parse(content).model_dump(mode="json")
        changed["evidence"][name] = value
        raw = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
        with raises(AttestationCode.DOCUMENT_MEMBER, match=f"evidence.{name}"):
            EvidenceBundle.parse(raw)
    assert document["type"] == "sealserve.evidence-bundle"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_bit_is_refused_or_changes_nothing_that_is_verified(example: Example, data: st.DataObject) -> None:
    """Some bytes are notes or are not used, for example the address. Both implementations agree about each bit."""
    content = bytearray(example.bundle().to_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = bytes(content)
    try:
        found = PresentedService.of_bundle(EvidenceBundle.parse(changed)).verify(example.policy, now=TIME)
    except SealserveError:
        with pytest.raises(Refused):
            verify_bundle(changed, example.policy_file, TIME)
    else:
        assert found == example.presented().verify(example.policy, now=TIME)
        verify_bundle(changed, example.policy_file, TIME)


@pytest.mark.parametrize("nonce", [b"", bytes(31), bytes(33), bytes(4096)])
def test_a_service_answers_only_nonces_of_32_bytes(example: Example, nonce: bytes) -> None:
    with raises(AttestedCode.EVIDENCE_NONCE):
        example.service().answer(nonce)


@pytest.mark.parametrize("text", ["", "A" * 42, "A" * 44, "=" * 43, "A" * 42 + "B", "a b", "A" * 100_000])
def test_a_wrong_nonce_in_a_query_is_refused(text: str) -> None:
    with raises(AttestedCode.EVIDENCE_NONCE):
        parse_nonce(text)


def test_a_query_contains_the_nonce() -> None:
    request = EvidenceRequest()
    assert len(request.nonce) == NONCE_SIZE
    name, _, text = request.query.partition("=")
    assert name == "nonce"
    assert parse_nonce(text) == request.nonce
    assert EvidenceRequest().nonce != request.nonce


def test_each_answer_signs_the_users_nonce_and_nothing_else_changes(example: Example) -> None:
    first, second = (EvidenceRequest(nonce=digest(name)) for name in ("first", "second"))
    certificate = example.certificate.public_bytes(Encoding.DER)
    found = [
        request.receive(example.service().answer(request.nonce), certificate=certificate).evidence
        for request in (first, second)
    ]
    assert found[0].nonce_signature != found[1].nonce_signature
    assert found[0].model_copy(update={"nonce_signature": found[1].nonce_signature}) == found[1]


def test_the_verifier_needs_only_the_base_installation() -> None:
    """The packages of the extra `owner` stay unloaded, and so do sealserve's modules for the network."""
    program = (
        "import sys, sealserve.attested.evidence_conversation, sealserve.attested.receipt; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), "
        "*(name for name in sys.modules if name.startswith('sealserve.')))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert {"cryptography", "dcap_qvl", "pydantic"} <= set(loaded)
    assert not {"aiohttp", "alembic", "cbor2", "httpx", "sqlalchemy", "yaml", "tensorflow", "grpc"} & set(loaded)
    forbidden = ("sealserve.broker", "sealserve.deployment", "sealserve.sgx.pcs", "sealserve.sgx.simulated")
    assert [name for name in loaded if name.startswith(forbidden)] == []
