"""The owner's issuing CA: its creation, its rotation, and its key in the keystore."""

import stat
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.broker import admin, stored_key
from sealserve.broker.audit_entry import Decision
from sealserve.broker.codes import BrokerCode
from sealserve.broker.keystore import rotate_master_key
from sealserve.broker.stored_key import KeyId
from sealserve.broker.tables import KEYS
from sealserve.owner import broker_files, certificates, expiry, issuing
from sealserve.owner.codes import OwnerCode
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


def test_without_attested_serving_there_is_none(site: Site) -> None:
    site.certify()
    assert not issuing.exists(site.workspace)
    assert not site.workspace.owner.database.exists()
    with pytest.raises(CertificateMissingError, match="issuing CA"):
        issuing.read_certificate(site.workspace)
    with raises(OwnerCode.CERTS_NOT_ATTESTED, match="use a TLS key that the owner creates"):
        certificates.rotate_issuing(site.workspace, site.deployment, now=site.now)


def test_it_is_created_when_a_deployment_changes(site: Site) -> None:
    site.certify()
    changed = make_site(site.directory, source=site.directory / "half-plus-two", server=ATTESTED)
    assert certificates.lacks_certificates(changed.workspace, changed.deployment)
    certificates.adapt_certificates(changed.workspace, changed.deployment, now=changed.now)
    assert decrypts(changed)
    assert not certificates.lacks_certificates(changed.workspace, changed.deployment)
    first = issuing.read_certificate(changed.workspace)
    certificates.adapt_certificates(changed.workspace, changed.deployment, now=changed.now)
    assert issuing.read_certificate(changed.workspace) == first
    # Another name of the service needs another authority, and another issuing CA below it.
    renamed = make_site(
        site.directory, source=site.directory / "half-plus-two", server=ATTESTED, service={"name": "other.example"}
    )
    certificates.adapt_certificates(renamed.workspace, renamed.deployment, now=renamed.now)
    assert issuing.read_certificate(renamed.workspace).names == ("other.example",)
    assert decrypts(renamed)


def test_an_authority_of_an_earlier_version_is_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(AuthorityKind, "signs_authorities", property(lambda _: False))
        site.certify()
    old = service_of(site.workspace)
    assert not old.may_sign_authorities
    assert certificates.outgrown_authorities(site.workspace, site.deployment) == []
    changed = make_site(site.directory, source=site.directory / "half-plus-two", server=ATTESTED)
    assert certificates.outgrown_authorities(changed.workspace, changed.deployment) == [AuthorityKind.SERVICE]
    with raises(PkiCode.AUTHORITY_NO_INTERMEDIATE):
        certificates.rotate_issuing(changed.workspace, changed.deployment, now=changed.now)
    certificates.adapt_certificates(changed.workspace, changed.deployment, now=changed.now)
    assert service_of(changed.workspace).may_sign_authorities
    assert changed.workspace.user.service_ca.read_bytes() == service_of(changed.workspace).certificate_pem
    assert decrypts(changed)


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
