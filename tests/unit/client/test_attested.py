"""A service is verified on exactly the connection that is used, over gRPC and over HTTPS."""

from datetime import timedelta
from pathlib import Path

import pytest
from scripts.attested_case import CaseBuilder
from tests.harness.attested_service import NAME, AttestedService, Hostile

from sealserve.attested.user_policy import parse_user_policy
from sealserve.client.attested import EndpointTls, StepFailedError, parse_bundle, verify_endpoint
from sealserve.errors import SealserveError

REFUSALS = {
    Hostile.RELAY: (6, "evidence.tls-key"),
    Hostile.REPLAY: (5, "evidence.nonce-signature"),
    Hostile.OTHER_RELEASE: (3, "evidence.release"),
    Hostile.DEBUG: (2, "quote.debug"),
    Hostile.NO_RESULT: (3, "evidence.no-result"),
    Hostile.NO_STATEMENT: (3, "evidence.no-statement"),
    Hostile.OTHER_OWNER: (3, "statement.signature"),
    Hostile.OTHER_KEYSET: (4, "evidence.keyset-binding"),
    Hostile.OTHER_IDENTITY: (5, "evidence.nonce-signature"),
    Hostile.GARBAGE: (None, "document.json"),
    Hostile.OVERSIZED: (None, None),
    Hostile.NO_EVIDENCE: (None, "client.evidence-missing"),
    Hostile.BUSY: (None, "client.evidence-unavailable"),
}


@pytest.fixture(params=["grpc", "rest"])
def port(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def address(service: AttestedService, port: str) -> str:
    return service.address if port == "grpc" else service.rest_address


def test_an_honest_service_is_verified(tmp_path: Path, port: str) -> None:
    with AttestedService(tmp_path, rest=True) as service:
        for tls in (service.tls, EndpointTls(server_name=NAME, ca=service.ca)):
            verified = verify_endpoint(address(service, port), service.policy, tls=tls)
            assert len(verified.service.reports) == 6
            assert verified.expires == service.example.result().expires
            assert parse_bundle(verified.bundle()).certificate == verified.certificate
        assert service.observed.evidence == 2
        assert not service.observed.inputs


def test_the_certificate_does_not_choose_how_long_evidence_counts(tmp_path: Path) -> None:
    """An owner can issue a certificate for decades. Without a result, nothing else would limit the time."""
    with AttestedService(tmp_path / "service", certificate_days=10_000) as service:
        policy = parse_user_policy(CaseBuilder(tmp_path / "cases", service.example).pinning().encode())
        verified = verify_endpoint(service.address, policy, tls=service.tls)
    assert verified.service.result is None
    assert verified.expires == verified.verified_at + timedelta(hours=1)


@pytest.mark.parametrize("hostile", REFUSALS)
def test_a_hostile_service_is_refused(tmp_path: Path, port: str, hostile: Hostile) -> None:
    step, code = REFUSALS[hostile]
    with AttestedService(tmp_path, rest=True, hostile=hostile) as service, pytest.raises(SealserveError) as caught:
        verify_endpoint(address(service, port), service.policy, tls=service.tls)
    if step is not None:
        assert isinstance(caught.value, StepFailedError)
        assert caught.value.step.number == step
    assert code is None or caught.value.code == code, caught.value
