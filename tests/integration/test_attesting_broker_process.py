"""A broker for attested serving in processes of its own: several processes, reloads, and rotations while it runs."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import SSL
from tests.harness.attesting_enclave import AttestingEnclave, Provision, connected
from tests.harness.running import run
from tests.harness.running_broker import Owned, owned

from sealserve.attestation.result import USER_AUDIENCE
from sealserve.attestation.result_token import verify_result
from sealserve.broker import admin
from sealserve.broker.audit_entry import Decision
from sealserve.owner import issuing
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import published_keys
from sealserve.pki.authority import CERTIFICATE_FILE, AuthorityKind

pytestmark = pytest.mark.integration

TWO = ("--processes", "2")


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owned]:
    with owned(tmp_path / "site", server={"attested": True}, broker={"certificate_hours": 2}) as made:
        yield made


def broker_ca(owner: Owned) -> bytes:
    return (owner.site.workspace.owner.authorities / AuthorityKind.BROKER / CERTIFICATE_FILE).read_bytes()


def provision(owner: Owned) -> Provision:
    enclave = AttestingEnclave(release_id="a" * 64, quote=owner.quote)
    return enclave.provision(("127.0.0.1", owner.port), broker_ca(owner))


def issuer_of(found: Provision) -> x509.Certificate:
    return x509.load_pem_x509_certificates(found.granted.grant.certificate_chain.encode())[1]


def test_several_processes_serve_enclaves_and_follow_rotations(owner: Owned) -> None:
    workspace = owner.site.workspace
    with owner.broker(options=TWO) as broker:
        with ThreadPoolExecutor(4) as threads:
            found = [future.result() for future in [threads.submit(provision, owner) for _ in range(8)]]
        assert {each.key for each in found} == {owner.made.key.reveal()}
        first = issuing.read_certificate(workspace)
        assert {issuer_of(each) for each in found} == {first.certificate}
        leaf = x509.load_pem_x509_certificates(found[0].granted.grant.certificate_chain.encode())[0]
        assert 1.9 < (leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 3600 <= 2
        # Both processes use the new issuing CA and the new master key without a restart.
        run("certs", "rotate-issuing", "-C", owner.site.directory)
        for _ in range(2):
            broker.until("reloaded the issuing authority")
        second = issuing.read_certificate(workspace)
        assert second.key_id != first.key_id
        run("broker", "rotate-master", "-C", owner.site.directory)
        assert {issuer_of(provision(owner)) for _ in range(6)} == {second.certificate}
        # So do they with the token key.
        run("broker", "token", "rotate", "--compromised", "--yes", "-C", owner.site.directory)
        for _ in range(2):
            broker.until("reloaded the token signing key")
        result = verify_result(
            provision(owner).granted.grant.attestation_result,
            published_keys(workspace),
            now=datetime.now(UTC),
            issuer="attestation.service.com",
            audience=USER_AUDIENCE,
            dangerous_simulated=True,
        )
        assert result.release_id == "a" * 64
    with Owner.open(workspace).database() as database:
        admin.verify_log(database)
        decisions = [row.entry.decision for row in admin.log(database)]
    assert decisions.count(Decision.RELEASED) == 8 + 6 + 1


def test_the_broker_of_another_deployment_does_not_offer_it(tmp_path: Path) -> None:
    with (
        owned(tmp_path / "site") as owner,
        owner.broker(),
        pytest.raises(SSL.Error, match="no application protocol"),
        connected(("127.0.0.1", owner.port), broker_ca(owner)),
    ):
        pass
