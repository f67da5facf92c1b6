"""The release statement: content, signature, registration, rotation of the broker's key."""

import hashlib
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.strict_document import LARGEST_INTEGER, SignedContent
from sealserve.attested.codes import AttestedCode
from sealserve.attested.release_statement import (
    DOMAIN,
    ReleaseStatement,
    model_digest,
    sign_statement,
    verify_statement,
)
from sealserve.broker import admin, releases, statements
from sealserve.broker.audit_entry import Decision
from sealserve.broker.codes import BrokerCode
from sealserve.broker.releases import ReleaseId
from sealserve.broker.tables import STATEMENTS
from sealserve.canonical_document import canonical_json
from sealserve.enclave.measurement import load_enclave
from sealserve.owner import provisioning, release_statements
from sealserve.owner.codes import OwnerCode
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import published_keys
from sealserve.owner.token_rotation import rotate_recorded
from sealserve.sealing.release import VerifiedRelease, verify_release


@pytest.fixture
def attested(tmp_path: Path) -> Site:
    site = make_site(tmp_path / "site", target={"kind": "docker"})
    site.import_model()
    site.certify()
    return site


def built(site: Site, enclaves: int = 1) -> VerifiedRelease:
    folder = site.build_release().folder
    for number in range(enclaves):
        site.build_enclave(folder, name=f"replica-{number}", port=8510 + number)
    return verify_release(folder, Owner.open(site.workspace).public_key())


def stored(site: Site, release: VerifiedRelease) -> SignedContent | None:
    with Owner.open(site.workspace).database() as database, database.read() as connection:
        return statements.find(connection, ReleaseId(release.id))


def verified(site: Site, release: VerifiedRelease) -> ReleaseStatement:
    signed = stored(site, release)
    assert signed is not None
    return verify_statement(signed, [Owner.open(site.workspace).public_key().public_bytes_raw()])


def test_the_registration_signs_a_statement(attested: Site) -> None:
    release = built(attested, enclaves=2)
    known = provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    found = verified(attested, release)
    assert found.release_id == release.id
    # The digest of the model covers the plaintext files, which the owner still has.
    folder = attested.workspace.owner.models / "half-plus-two" / "1"
    files = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }
    (model,) = found.models
    assert (model.name, model.version, model.sha256) == ("half-plus-two", "1", model_digest(files))
    assert (model.allowed_operations, model.signer) == ((), None)
    assert not found.shared_batches
    assert {bytes.fromhex(enclave.mr_enclave) for enclave in found.enclaves} == {
        enclave.measurement for enclave in known.enclaves
    }
    policy = known.release.policy
    assert found.policy.sha256 == hashlib.sha256(policy.to_json().encode()).hexdigest()
    (broker,) = found.brokers
    assert (broker.name, broker.key_set.keys) == (
        "attestation.service.com", published_keys(attested.workspace).keys
    )  # fmt: skip
    with Owner.open(attested.workspace).database() as database:
        assert admin.log(database)[-1].entry.decision is Decision.STATED
        admin.verify_log(database)


def test_a_statement_names_the_exceptions_to_the_rules_for_models(tmp_path: Path) -> None:
    """Each exception is also a flag of the measured command line, and the statement agrees with it."""
    (batching := tmp_path / "batching.config").write_text("max_batch_size { value: 8 }")
    site = make_site(
        tmp_path / "site",
        # The model contains none of the operations. But the flag would allow them.
        model={"dangerous_operations": ("WriteFile", "PrintV2", "PrintV2")},
        server={"batching_parameters_file": str(batching), "dangerous_shared_batches": True},
        target={"kind": "docker"},
    )
    site.import_model()
    site.certify()
    release = built(site)
    provisioning.register(site.workspace, site.deployment, release, now=site.now)
    found = verified(site, release)
    assert found.shared_batches
    assert found.models[0].allowed_operations == ("PrintV2", "WriteFile")
    flags = load_enclave(release.folder, "replica-0").manifest.loader.argv
    assert "--dangerous_shared_batches=true" in flags
    assert "--dangerous_operations=PrintV2,WriteFile" in flags


def test_the_setting_without_batches_is_not_an_exception(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", server={"dangerous_shared_batches": True}, target={"kind": "docker"})
    site.import_model()
    site.certify()
    release = built(site)
    provisioning.register(site.workspace, site.deployment, release, now=site.now)
    assert not verified(site, release).shared_batches
    flags = load_enclave(release.folder, "replica-0").manifest.loader.argv
    assert not any("batch" in flag for flag in flags)


def test_a_repetition_signs_nothing_new(attested: Site) -> None:
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    first = stored(attested, release)
    later = attested.now + timedelta(hours=1)
    provisioning.register(attested.workspace, attested.deployment, release, now=later)
    assert stored(attested, release) == first
    # Another enclave needs a newer statement.
    attested.build_enclave(release.folder, name="replica-1", port=8511)
    provisioning.register(attested.workspace, attested.deployment, release, now=later)
    found = verified(attested, release)
    assert len(found.enclaves) == 2
    assert first is not None
    assert found.issued > ReleaseStatement.parse(first.content).issued


def test_another_name_of_the_broker_needs_no_new_release(attested: Site) -> None:
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    broker = attested.deployment.broker.model_copy(update={"name": "other.example"})
    renamed = attested.deployment.model_copy(update={"broker": broker})
    provisioning.register(attested.workspace, renamed, release, now=attested.now)
    assert [found.name for found in verified(attested, release).brokers] == ["other.example"]


def test_without_attested_serving_there_is_no_statement(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", server={"dangerous_owner_tls_key": True}, target={"kind": "docker"})
    site.import_model()
    site.certify()
    release = built(site)
    provisioning.register(site.workspace, site.deployment, release, now=site.now)
    assert stored(site, release) is None


def test_an_attested_release_is_stated_after_the_setting_changed(attested: Site) -> None:
    release = built(attested)
    changed = make_site(
        attested.directory,
        source=attested.directory / "half-plus-two",
        server={"dangerous_owner_tls_key": True},
        target={"kind": "docker"},
    )
    assert not changed.deployment.server.attested
    provisioning.register(changed.workspace, changed.deployment, release, now=changed.now)
    assert verified(attested, release)


def test_a_release_with_a_tls_key_is_never_stated_even_without_its_record(tmp_path: Path) -> None:
    """A release of an earlier version is registered again for a roll-back."""
    site = make_site(tmp_path / "site", server={"dangerous_owner_tls_key": True}, target={"kind": "docker"})
    site.import_model()
    site.certify()
    release = built(site)
    shutil.rmtree(site.workspace.owner.provenance)
    changed = make_site(site.directory, source=site.directory / "half-plus-two", target={"kind": "docker"})
    assert changed.deployment.server.attested
    provisioning.register(changed.workspace, changed.deployment, release, now=changed.now)
    assert stored(site, release) is None


def test_a_rotation_of_the_token_key_signs_it_again(attested: Site) -> None:
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    before = verified(attested, release)
    for compromised, keys in ((False, 2), (True, 1)):
        with Owner.open(attested.workspace).database() as database:
            rotated = rotate_recorded(attested.workspace, database, compromised=compromised, now=attested.now)
        after = verified(attested, release)
        assert after.brokers[0].key_set.keys == rotated.keys
        assert len(rotated.keys) == keys
        assert after.issued > before.issued
        assert (after.models, after.enclaves) == (before.models, before.enclaves)
        before = after
    with Owner.open(attested.workspace).database() as database:
        admin.verify_log(database)


def test_a_rotation_without_the_signing_key_changes_no_file(attested: Site) -> None:
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    key = attested.workspace.owner.token_signing_key.read_bytes()
    with Owner.open(attested.workspace).database() as database:
        signing = attested.workspace.owner.index_signing_key
        signing.rename(signing.with_name("elsewhere"))
        with pytest.raises(Exception, match="The key that signs releases"):
            rotate_recorded(attested.workspace, database, compromised=False, now=attested.now)
        assert attested.workspace.owner.token_signing_key.read_bytes() == key


def test_a_revoked_release_is_not_stated_again(attested: Site) -> None:
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    before = stored(attested, release)
    with Owner.open(attested.workspace).database() as database:
        admin.revoke(database, release.id, now=attested.now)
        rotate_recorded(attested.workspace, database, compromised=False, now=attested.now)
    assert stored(attested, release) == before


def forge(site: Site, release: VerifiedRelease, *, issued: int | None = None) -> None:
    """Replace the statement, as a broker that was broken into can: it has the row key, and no key of the owner."""
    former = verified(site, release)
    pinned = former.models[0].model_copy(update={"sha256": "e" * 64})
    forged = former.model_copy(update={"models": (pinned,), "issued": former.issued if issued is None else issued})
    signed = sign_statement(forged, Ed25519PrivateKey.generate())
    with Owner.open(site.workspace).database() as database, database.write() as connection:
        statements.put(connection, releases.get(connection, ReleaseId(release.id)), signed, now=site.now)


def test_a_forged_statement_is_never_signed_by_a_rotation(attested: Site, caplog: pytest.LogCaptureFixture) -> None:
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    forge(attested, release)
    with Owner.open(attested.workspace).database() as database:
        rotate_recorded(attested.workspace, database, compromised=True, now=attested.now)
    signed, owner = stored(attested, release), Owner.open(attested.workspace).public_key().public_bytes_raw()
    assert signed is not None
    with raises(AttestedCode.STATEMENT_SIGNATURE):
        verify_statement(signed, [owner])
    assert f"the statement of the release {release.id} was not signed again" in caplog.text
    # The registration replaces it by a statement that the owner's own files support.
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    assert verified(attested, release).models[0].sha256 != "e" * 64


def test_a_statement_of_version_1_is_replaced_by_the_registration(
    attested: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Version 1 does not state shared batches. A rotation could only guess them."""
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    now = verified(attested, release)
    members = now.model_dump(mode="json", exclude={"shared_batches"}) | {"version": 1}
    owner = Owner.open(attested.workspace)
    content = canonical_json(members)
    old = SignedContent(content=content, signature=owner.index_signer().sign(DOMAIN + content))
    with owner.database() as database:
        with database.write() as connection:
            statements.put(connection, releases.get(connection, ReleaseId(release.id)), old, now=attested.now)
        with raises(AttestationCode.DOCUMENT_VERSION, match="expected 2, got 1"):
            verified(attested, release)
        rotate_recorded(attested.workspace, database, compromised=False, now=attested.now)
        assert stored(attested, release) == old
        assert "was not signed again, because the owner's key did not sign it, or it has another version" in caplog.text
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    assert not verified(attested, release).shared_batches


def test_a_forged_statement_does_not_choose_the_time_of_the_next_one(attested: Site) -> None:
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    forge(attested, release, issued=LARGEST_INTEGER)
    now = attested.now
    provisioning.register(attested.workspace, attested.deployment, release, now=now)
    assert verified(attested, release).issued == int(now.timestamp())


def test_too_many_enclaves_are_refused_before_the_registration(attested: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    release = built(attested, enclaves=2)
    monkeypatch.setattr(release_statements, "MOST_ENCLAVES", 1)
    with raises(OwnerCode.RELEASE_STATEMENT, match="expected at most 1 enclaves, got 2"):
        provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    with Owner.open(attested.workspace).database() as database:
        assert admin.every_release(database) == []


def test_a_release_without_a_record_cannot_be_stated(attested: Site) -> None:
    release = built(attested)
    record = attested.workspace.owner.provenance / "statements" / f"{release.folder.name}.json"
    kept = record.read_text()
    record.write_text(kept.replace(release.id, "0" * 64))
    with raises(OwnerCode.RELEASE_STATEMENT, match="for another release"):
        provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    release_statements.forget(attested.workspace, release.folder.name)
    with raises(OwnerCode.RELEASE_STATEMENT, match="no record of its models"):
        provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    record.write_text(kept.replace('"allowed_operations":[]', f'"allowed_operations":{["Op"] * 33}'.replace("'", '"')))
    with raises(OwnerCode.RELEASE_STATEMENT, match="allowed_operations"):
        provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)


def test_a_deleted_statement_is_noticed(attested: Site) -> None:
    release = built(attested)
    provisioning.register(attested.workspace, attested.deployment, release, now=attested.now)
    with Owner.open(attested.workspace).database() as database, database.write() as connection:
        connection.execute(delete(STATEMENTS))
    with raises(BrokerCode.DATABASE_AUTHENTICATION, match="it was deleted"):
        stored(attested, release)
