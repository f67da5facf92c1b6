"""A broker for attested serving in processes of its own: several processes, reloads, and rotations while it runs."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from tests.harness.attesting_enclave import AttestingEnclave, Provision, connected
from tests.harness.reports import REPORT
from tests.harness.running import run
from tests.harness.running_broker import Owned, owned

from sealserve.attestation.result import USER_AUDIENCE
from sealserve.attestation.result_token import verify_result
from sealserve.attestation.session_binding import service_report_data
from sealserve.attested.evidence import ServiceEvidence
from sealserve.attested.evidence_conversation import EvidenceService
from sealserve.attested.user_policy import parse_user_policy
from sealserve.attested.verification import verify_service
from sealserve.broker import admin
from sealserve.broker.audit_entry import Decision
from sealserve.owner import issuing, provisioning, simulation
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import published_keys
from sealserve.pki.authority import CERTIFICATE_FILE, AuthorityKind
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.simulated.quoting_enclave import quote

pytestmark = pytest.mark.integration

TWO = ("--processes", "2")


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owned]:
    with owned(tmp_path / "site", broker={"certificate_hours": 2}) as made:
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


def test_a_user_verifies_an_enclave_of_a_real_release(tmp_path: Path) -> None:
    """The owner builds and registers; the broker decides; the user needs only the owner's key and the vendor's root."""
    with owned(tmp_path / "site") as owner:
        site, workspace = owner.site, owner.site.workspace
        site.import_model()
        folder = site.build_release().folder
        site.build_enclave(folder)
        known = provisioning.allow(workspace, site.deployment, folder, now=site.now)
        reference = ReferenceValues.from_json(known.enclaves[0].values)
        report = replace(
            REPORT,
            mr_enclave=reference.mr_enclave,
            mr_signer=reference.mr_signer,
            isv_prod_id=reference.isv_prod_id,
            isv_svn=reference.isv_svn,
        )
        enclave = AttestingEnclave(
            release_id=known.release.release_id,
            quote=lambda data: quote(owner.platform, replace(report, report_data=data)),
        )
        with owner.broker():
            found = enclave.provision(("127.0.0.1", owner.port), broker_ca(owner))
        grant = found.granted.grant
        service = EvidenceService(
            keyset=enclave.keyset,
            identity=enclave.identity,
            quote=enclave.quote(service_report_data(enclave.keyset.digest)),
            collateral=grant.collateral,
            attestation_result=grant.attestation_result,
            statement=grant.statement,
        )
        root = simulation.open_vendor(workspace, now=site.now).root.certificate.public_bytes(Encoding.PEM).decode()
        key = Owner.open(workspace).public_key().public_bytes_raw().hex()
        policy = f'version = 1\nowner_keys = ["{key}"]\ndangerous_simulated_root = """\n{root}"""\n'
        nonce = bytes(range(32))
        leaf = x509.load_pem_x509_certificates(grant.certificate_chain.encode())[0]
        verified = verify_service(
            ServiceEvidence.parse(service.answer(nonce)),
            nonce=nonce,
            certificate=leaf.public_bytes(Encoding.DER),
            policy=parse_user_policy(policy.encode()),
            now=datetime.now(UTC),
        )
        assert verified.statement is not None
        assert verified.statement.models[0].name == "half-plus-two"
        assert verified.result is not None
        assert verified.result.expires == leaf.not_valid_after_utc


def test_the_broker_of_another_deployment_does_not_offer_it(tmp_path: Path) -> None:
    with (
        owned(tmp_path / "site", server={"dangerous_owner_tls_key": True}) as owner,
        owner.broker(),
        pytest.raises(SSL.Error, match="no application protocol"),
        connected(("127.0.0.1", owner.port), broker_ca(owner)),
    ):
        pass
