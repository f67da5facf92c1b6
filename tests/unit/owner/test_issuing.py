"""The owner's issuing CA: its creation, its rotation, and its key in the keystore."""

import stat
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from sqlalchemy import delete, select
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.broker import admin, stored_key
from sealserve.broker.audit_entry import Decision
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.head_file import kept_head
from sealserve.broker.keystore import rotate_master_key
from sealserve.broker.stored_key import KeyId
from sealserve.broker.tables import AUDIT, KEYS
from sealserve.owner import broker_files, certificates, expiry, issuing, provisioning
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import IdentityLostError
from sealserve.owner.owner import Owner
from sealserve.pki import expiry as endings
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertificateMissingError
from sealserve.pki.codes import PkiCode
from sealserve.pki.issuing import load_key
from sealserve.workspace import Workspace

ATTESTED = {"dangerous_owner_tls_key": False}


@pytest.fixture
def attested(tmp_path: Path) -> Site:
    site = make_site(tmp_path, server=ATTESTED)
    site.certify()
    return site


@pytest.fixture
def owners_key(tmp_path: Path) -> Site:
    """A deployment whose owner creates the TLS key."""
    return make_site(tmp_path / "site", server={"dangerous_owner_tls_key": True})


@pytest.fixture
def earlier(owners_key: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A deployment with the authorities of a version without attested serving."""
    with monkeypatch.context() as version:
        version.setattr(AuthorityKind, "signs_authorities", property(lambda _: False))
        owners_key.certify()
    return owners_key


def now_attested(site: Site, **sections: object) -> Site:
    """Return the site with attested serving."""
    return make_site(site.directory, source=site.directory / "half-plus-two", server=ATTESTED, **sections)


def service_of(workspace: Workspace) -> Authority:
    return Authority.load(workspace.owner.authorities / AuthorityKind.SERVICE)


def stored_keys(site: Site) -> Collection[tuple[str, int]]:
    with Owner.open(site.workspace).vault() as vault, vault.database.read() as connection:
        return [tuple(row) for row in connection.execute(select(KEYS.c.key_id, KEYS.c.format)).all()]


def decrypts(site: Site) -> bool:
    """Return whether the keystore has the private key of the present certificate."""
    certificate = issuing.read_certificate(site.workspace)
    with Owner.open(site.workspace).vault() as vault:
        with vault.database.read() as connection:
            stored = stored_key.find_issuing(connection, KeyId(certificate.key_id))
        with vault.keystore.decrypt(stored) as key:
            return load_key(key).public_key() == certificate.certificate.public_key()


def test_it_is_created_with_the_other_certificates(attested: Site) -> None:
    certificate = issuing.read_certificate(attested.workspace)
    assert certificate.is_issued_by(service_of(attested.workspace))
    assert certificate.names == ("grpc.tf-serving.service.com",)
    assert stored_keys(attested) == [(certificate.key_id, 3)]
    assert decrypts(attested)
    # The private key is nowhere in plaintext, and the folder has only the certificate.
    folder = attested.workspace.owner.issuing
    assert [path.name for path in folder.iterdir()] == ["ca.pem"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "issuing authority" in [shown.role for shown in certificates.show_certificates(attested.workspace)]
    with Owner.open(attested.workspace).database() as database:
        line = admin.log(database)[-1].entry
        assert (line.decision, line.detail) == (Decision.ISSUING_KEY_ROTATED, f"to the key {certificate.key_id}")
        assert admin.status(database).keys == 0
        admin.verify_log(database)


def test_a_database_that_was_lost_before_a_release_is_noticed(attested: Site) -> None:
    """A new database would not contain the key of the certificate."""
    attested.import_model()
    head = kept_head(attested.workspace.owner.audit_head)
    assert head is not None
    assert head.seq == 1  # the row of the creation
    database = attested.workspace.owner.database
    for file in database.parent.glob(f"{database.name}*"):
        file.unlink()
    with pytest.raises(IdentityLostError, match="The broker's database is missing"):
        attested.build_release()
    with pytest.raises(IdentityLostError, match="The broker's database is missing"):
        certificates.rotate_issuing(attested.workspace, attested.deployment, now=attested.now)
    assert not database.exists()


def test_the_row_of_a_rotation_cannot_be_cut_off(attested: Site) -> None:
    certificates.rotate_issuing(attested.workspace, attested.deployment, now=attested.now, compromised=True)
    with Database.open(attested.workspace.owner.database) as database, database.write() as connection:
        connection.execute(delete(AUDIT).where(AUDIT.c.seq == 2))
    with raises(BrokerCode.AUDIT_TRUNCATED):
        provisioning.verify_log(attested.workspace)


def test_without_attested_serving_there_is_none(owners_key: Site) -> None:
    owners_key.certify()
    assert not issuing.exists(owners_key.workspace)
    assert not owners_key.workspace.owner.database.exists()
    with pytest.raises(CertificateMissingError, match="issuing CA"):
        issuing.read_certificate(owners_key.workspace)
    with raises(OwnerCode.CERTS_NOT_ATTESTED, match="use a TLS key that the owner creates"):
        certificates.rotate_issuing(owners_key.workspace, owners_key.deployment, now=owners_key.now)


def test_it_is_created_when_a_deployment_changes(owners_key: Site) -> None:
    owners_key.certify()
    changed = now_attested(owners_key)
    assert certificates.lacks_certificates(changed.workspace, changed.deployment)
    assert certificates.lacks_issuing(changed.workspace, changed.deployment)
    certificates.adapt_certificates(changed.workspace, changed.deployment, now=changed.now)
    assert decrypts(changed)
    assert not certificates.lacks_certificates(changed.workspace, changed.deployment)
    assert not certificates.lacks_issuing(changed.workspace, changed.deployment)
    first = issuing.read_certificate(changed.workspace)
    certificates.adapt_certificates(changed.workspace, changed.deployment, now=changed.now)
    assert issuing.read_certificate(changed.workspace) == first
    # Another name of the service needs another authority, and another issuing CA below it.
    renamed = now_attested(owners_key, service={"name": "other.example"})
    certificates.adapt_certificates(renamed.workspace, renamed.deployment, now=renamed.now)
    assert issuing.read_certificate(renamed.workspace).names == ("other.example",)
    assert decrypts(renamed)


def test_an_authority_of_an_earlier_version_is_never_replaced_in_passing(earlier: Site) -> None:
    before = service_of(earlier.workspace)
    assert not before.may_sign_authorities
    # With a TLS key of the owner, nothing changes.
    certificates.check_service_authority(earlier.workspace, earlier.deployment)
    assert not certificates.lacks_certificates(earlier.workspace, earlier.deployment)
    changed = now_attested(earlier)
    assert certificates.outgrown_authorities(changed.workspace, changed.deployment) == []
    assert not certificates.lacks_issuing(changed.workspace, changed.deployment)
    for step in (
        certificates.create_certificates,
        certificates.adapt_certificates,
        certificates.rotate_issuing,
        certificates.tls_files,
    ):
        with raises(PkiCode.AUTHORITY_NO_INTERMEDIATE, match="earlier version of sealserve") as caught:
            step(changed.workspace, changed.deployment, now=changed.now)
        # The error names both ways out.
        assert "certs renew-service-ca" in str(caught.value.hint)
        assert "send the new user/service-ca.pem to the users" in str(caught.value.hint)
        assert "server.dangerous_owner_tls_key = true" in str(caught.value.hint)
    with raises(PkiCode.AUTHORITY_NO_INTERMEDIATE):
        certificates.check_service_authority(changed.workspace, changed.deployment)
    assert service_of(changed.workspace).certificate_pem == before.certificate_pem
    assert changed.workspace.user.service_ca.read_bytes() == before.certificate_pem
    assert not issuing.exists(changed.workspace)
    # Another name of the service needs another authority anyway, which the owner confirms.
    renamed = now_attested(earlier, service={"name": "other.example"})
    certificates.check_service_authority(renamed.workspace, renamed.deployment)
    assert certificates.outgrown_authorities(renamed.workspace, renamed.deployment) == [AuthorityKind.SERVICE]


def test_the_owner_renews_the_authority_of_an_earlier_version(earlier: Site) -> None:
    before = service_of(earlier.workspace)
    leaf = before.issue_server(["grpc.tf-serving.service.com"], now=earlier.now)
    changed = now_attested(earlier)
    shown = certificates.renew_service_authority(changed.workspace, changed.deployment, now=changed.now)
    assert "issuing authority" in [certificate.role for certificate in shown]
    after = service_of(changed.workspace)
    assert after.may_sign_authorities
    assert after.key_pem == before.key_pem
    assert after.permits(["grpc.tf-serving.service.com"])
    assert not after.permits(["bank.example"])
    assert changed.workspace.user.service_ca.read_bytes() == after.certificate_pem
    assert decrypts(changed)
    certificates.check_service_authority(changed.workspace, changed.deployment)
    assert certificates.outgrown_authorities(changed.workspace, changed.deployment) == []
    # The former certificate is kept, and users with the new one accept the running service.
    folder = changed.workspace.owner.authorities / AuthorityKind.SERVICE
    (kept,) = folder.glob("ca.replaced-*.pem")
    assert kept.read_bytes() == before.certificate_pem
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    verifier = PolicyBuilder().store(Store(x509.load_pem_x509_certificates(after.certificate_pem)))
    for chain in (
        leaf.chain_pem,
        certificates.fresh_ssl_config(changed.workspace, changed.deployment, now=changed.now).server_cert,
    ):
        verifier.build_server_verifier(x509.DNSName("grpc.tf-serving.service.com")).verify(
            x509.load_pem_x509_certificates(chain)[0], []
        )


def test_a_renewal_with_the_owners_tls_key_creates_no_issuing_authority(earlier: Site) -> None:
    certificates.renew_service_authority(earlier.workspace, earlier.deployment, now=earlier.now)
    assert service_of(earlier.workspace).may_sign_authorities
    assert not issuing.exists(earlier.workspace)


def test_a_rotation_keeps_the_former_key_once(attested: Site) -> None:
    first = issuing.read_certificate(attested.workspace)
    roles = [
        shown.role for shown in certificates.rotate_issuing(attested.workspace, attested.deployment, now=attested.now)
    ]
    assert "issuing authority" in roles
    second = issuing.read_certificate(attested.workspace)
    assert {key for key, _ in stored_keys(attested)} == {first.key_id, second.key_id}
    certificates.rotate_issuing(attested.workspace, attested.deployment, now=attested.now)
    third = issuing.read_certificate(attested.workspace)
    assert {key for key, _ in stored_keys(attested)} == {second.key_id, third.key_id}
    certificates.rotate_issuing(attested.workspace, attested.deployment, now=attested.now, compromised=True)
    assert [key for key, _ in stored_keys(attested)] == [issuing.read_certificate(attested.workspace).key_id]
    assert decrypts(attested)


def test_a_damaged_certificate_is_replaced(attested: Site) -> None:
    issuing.certificate_file(attested.workspace).write_text("damaged")
    with raises(PkiCode.CERTIFICATE_UNREADABLE):
        issuing.read_certificate(attested.workspace)
    assert certificates.lacks_certificates(attested.workspace, attested.deployment)
    certificates.adapt_certificates(attested.workspace, attested.deployment, now=attested.now)
    assert decrypts(attested)


def test_a_rotation_of_the_master_key_keeps_its_kind(attested: Site) -> None:
    attested.import_model()
    attested.build_release()
    before = sorted(stored_keys(attested))
    with Owner.open(attested.workspace).vault() as vault:
        assert rotate_master_key(vault.database, vault.keystore, attested.workspace.owner.master_key) == 2
    assert sorted(stored_keys(attested)) == before
    assert decrypts(attested)


def test_only_a_release_key_can_be_discarded_as_one(attested: Site) -> None:
    key_id = KeyId(issuing.read_certificate(attested.workspace).key_id)
    with Owner.open(attested.workspace).vault() as vault, vault.database.write() as connection:
        vault.keystore.discard(connection, key_id)
        with raises(BrokerCode.KEYSTORE_UNKNOWN_KEY):
            vault.keystore.load(connection, key_id)
    assert decrypts(attested)


def test_its_expiry_has_a_warning_with_the_remedy(attested: Site) -> None:
    ends = expiry.certificate_ends(attested.workspace, None)
    end = issuing.read_certificate(attested.workspace).ends
    assert ends["issuing authority"] == end
    (warning,) = [text for text in endings.warnings(ends, end - timedelta(days=3)) if "issuing" in text]
    assert "Run `sealserve certs rotate-issuing`" in warning


def test_a_broker_elsewhere_gets_the_certificate(attested: Site) -> None:
    attested.import_model()
    attested.build_release()
    broker_files.make_ready(attested.workspace)
    found = [str(path) for path in broker_files._files(attested.workspace)]
    assert str(issuing.certificate_file(attested.workspace)) in found
    assert not any("authorities" in path for path in found)
