import shutil
import socket
import sqlite3
import urllib.request
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site

from sealserve.broker import admin
from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.broker.administration.client import RemoteAdministration
from sealserve.broker.audit_selection import Selection
from sealserve.broker.codes import BrokerCode
from sealserve.broker.head_file import kept_head
from sealserve.broker.master_key import under_passphrase
from sealserve.broker.releases import Release
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.index import EnclaveIndexMissingError
from sealserve.errors import SealserveError
from sealserve.owner import administrators, attestation, provisioning, simulation
from sealserve.owner.codes import OwnerCode
from sealserve.owner.keys import read_owner_key
from sealserve.owner.master_key import complete_rotation
from sealserve.owner.owner import Owner
from sealserve.pki.certificate import CertificateMissingError
from sealserve.sealing.release import VerifiedRelease, verify_release
from sealserve.sealing.release_files import ReleaseFileMissingError
from sealserve.secret import SecretBytes
from sealserve.sgx.pcs import INTEL_ROOT_CRL
from sealserve.sgx.verifier import SgxVerifier
from sealserve.terms import INTEL_PCS, AdministratorRole, Approval, PlatformKind


@pytest.fixture
def release(released: VerifiedRelease) -> Path:
    """A release with two enclaves."""
    return released.folder


def allowed(site: Site) -> list[Release]:
    with Owner.open(site.workspace).vault() as vault:
        return [known.release for known in admin.every_release(vault.database)]


def test_all_enclaves_that_the_owner_built_are_allowed(ready: Site, release: Path) -> None:
    known = provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    summary = known.release
    assert (summary.name, summary.platform, summary.state) == (release.name, "simulated", "active")
    assert [enclave.label for enclave in known.enclaves] == ["replica-0", "replica-1"]
    assert not summary.policy.enrolled_platforms_only
    assert summary.policy.tcb.name == "strict"
    assert allowed(ready) == [summary]
    with Owner.open(ready.workspace).vault() as vault:
        assert [row.entry.decision for row in admin.log(vault.database)] == [
            "issuing-rotated", "allowed", "allowed", "stated",
        ]  # fmt: skip


def test_the_choice_of_manual_approval_is_stored_with_the_release(ready: Site, release: Path) -> None:
    broker = ready.deployment.broker.model_copy(update={"approval": Approval.MANUAL})
    described = ready.deployment.model_copy(update={"broker": broker})
    assert provisioning.allow(ready.workspace, described, release, now=ready.now).release.policy.manual_approval
    # The rule does not end silently: only a reactivation changes the policy of a registered release.
    with raises(BrokerCode.RELEASE_POLICY):
        provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    assert allowed(ready)[0].policy.manual_approval
    later = provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now, reactivate=True)
    assert not later.release.policy.manual_approval


def test_what_was_allowed_already_changes_not_one_byte(ready: Site, release: Path) -> None:
    """A copy of the database in a trial's cluster would look new each time, and its broker would start again."""

    def allow() -> bytes:
        provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
        with closing(sqlite3.connect(f"file:{ready.workspace.owner.database}?mode=ro", uri=True)) as database:
            return database.serialize()

    assert allow() == allow()


def test_one_that_was_built_later_comes_in_beside_them(ready: Site, release: Path) -> None:
    provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    ready.build_enclave(release, name="replica-2", port=8512)
    summary = provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    assert [enclave.label for enclave in summary.enclaves] == ["replica-0", "replica-1", "replica-2"]


def test_a_release_without_enclaves_is_not_allowed(ready: Site) -> None:
    folder = ready.build_release().folder
    with pytest.raises(EnclaveIndexMissingError) as caught:
        provisioning.allow(ready.workspace, ready.deployment, folder, now=ready.now)
    assert caught.value.code == "enclave-index.missing"
    assert allowed(ready) == []


def test_an_enclave_that_somebody_else_added_is_not_allowed(ready: Site, release: Path) -> None:
    shutil.copyfile(release / "enclave/replica-0.sig", release / "enclave/replica-9.sig")
    with raises(EnclaveCode.ENCLAVE_INDEX_FILES, match=r"not in the index: replica-9\.sig"):
        provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    assert allowed(ready) == []


def test_an_incomplete_release_is_not_allowed(ready: Site, release: Path) -> None:
    (release / "files.json").unlink()
    with pytest.raises(ReleaseFileMissingError, match=r"files\.json"):
        provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    assert allowed(ready) == []


def test_a_draining_release_goes_on_draining_until_it_is_said_otherwise(ready: Site, release: Path) -> None:
    provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    with Owner.open(ready.workspace).vault() as vault:
        admin.drain(vault.database, release.name, deadline=ready.now + timedelta(hours=1), now=ready.now)
    ready.build_enclave(release, name="replica-2", port=8512)
    again = provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    assert (again.release.state, len(again.enclaves)) == ("draining", 3)
    again = provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now, reactivate=True)
    assert (again.release.state, again.release.deadline) == ("active", None)


def test_a_revoked_release_stays_revoked(ready: Site, release: Path) -> None:
    provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    with Owner.open(ready.workspace).vault() as vault:
        admin.drain(vault.database, release.name, deadline=ready.now + timedelta(hours=1), now=ready.now)
        admin.revoke(vault.database, release.name, now=ready.now)
    with raises(BrokerCode.RELEASE_FINAL, match="is revoked. Revocation is permanent") as caught:
        provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    assert caught.value.code == "broker.release-final"


@pytest.fixture
def successor(ready: Site, release: Path) -> Path:
    """Another release, allowed like the first."""
    folder = ready.build_release().folder
    ready.build_enclave(folder, name="replica-0", port=8510)
    for allowed_one in (release, folder):
        provisioning.allow(ready.workspace, ready.deployment, allowed_one, now=ready.now)
    return folder


def retire(site: Site, *replaced: str, by: Path, now: datetime, minutes: int = 60) -> list[str]:
    broker = site.deployment.broker.model_copy(update={"drain_minutes": minutes})
    described = site.deployment.model_copy(update={"broker": broker})
    return [gone.name for gone in provisioning.retire(site.workspace, described, replaced, by=by, now=now)]


def test_what_a_roll_out_replaced_drains_once(ready: Site, release: Path, successor: Path) -> None:
    now = ready.now
    assert retire(ready, release.name, successor.name, "never-heard-of", by=successor, now=now, minutes=30) == [
        release.name
    ]
    until = now + timedelta(minutes=30)
    assert provisioning.draining_until(ready.workspace, release) == until
    assert provisioning.draining_until(ready.workspace, successor) is None
    assert retire(ready, release.name, by=successor, now=now) == []  # a later run does not put the end off
    assert provisioning.draining_until(ready.workspace, release) == until
    with Owner.open(ready.workspace).vault() as vault:
        row = admin.log(vault.database, last=1)[0].entry
    assert row.detail == f"until {until.isoformat()}, replaced by {successor.name}"


def test_nothing_drains_where_nothing_would_be_left_or_the_owner_does_it(
    ready: Site, release: Path, successor: Path
) -> None:
    now = ready.now
    assert retire(ready, release.name, by=successor, now=now, minutes=0) == []
    assert retire(ready, by=successor, now=now) == []
    with Owner.open(ready.workspace).vault() as vault:
        admin.drain(vault.database, successor.name, deadline=now + timedelta(hours=1), now=now)
    assert retire(ready, release.name, by=successor, now=now) == []
    assert [one.state for one in allowed(ready)] == ["active", "draining"]


def verified(site: Site, release: Path) -> VerifiedRelease:
    return verify_release(release, Owner.open(site.workspace).index_signer().public_key())


def test_what_ends_or_comes_back_needs_no_passphrase(ready: Site, release: Path, successor: Path) -> None:
    path = ready.workspace.owner.master_key
    path.write_bytes(under_passphrase(SecretBytes(path.read_bytes()), SecretBytes(b"typed each time")))
    with raises(BrokerCode.KEYSTORE_PASSPHRASE_MISSING), Owner.open(ready.workspace).vault():
        pass
    assert retire(ready, release.name, by=successor, now=ready.now) == [release.name]
    assert provisioning.draining_until(ready.workspace, release) is not None
    assert provisioning.bring_back(ready.workspace, ready.deployment, verified(ready, release), now=ready.now)


def test_a_roll_back_makes_a_draining_release_active_until_its_deadline(
    ready: Site, release: Path, successor: Path
) -> None:
    now = ready.now

    def bring_back(after: timedelta) -> bool:
        return provisioning.bring_back(ready.workspace, ready.deployment, verified(ready, release), now=now + after)

    assert not bring_back(timedelta())  # it is active
    retire(ready, release.name, by=successor, now=now)
    with raises(BrokerCode.POLICY_RELEASE_DRAINING_ENDED, match="draining until") as late:
        bring_back(timedelta(hours=1))
    assert late.value.hint is not None
    assert "--reactivate" in late.value.hint
    assert bring_back(timedelta(minutes=59))
    assert provisioning.draining_until(ready.workspace, release) is None
    with Owner.open(ready.workspace).vault() as vault:
        admin.revoke(vault.database, release.name, now=now)
    with raises(BrokerCode.POLICY_RELEASE_REVOKED):
        bring_back(timedelta())


def test_a_roll_back_changes_no_policy(ready: Site, release: Path, successor: Path) -> None:
    retire(ready, release.name, by=successor, now=ready.now)
    tcb = ready.deployment.tcb.model_copy(update={"preset": "cloud-smt"})
    looser = ready.deployment.model_copy(update={"tcb": tcb})
    with raises(BrokerCode.RELEASE_POLICY, match="the policy 'strict'"):
        provisioning.bring_back(ready.workspace, looser, verified(ready, release), now=ready.now)
    found = next(one for one in allowed(ready) if one.name == release.name)
    assert (found.state, found.policy.tcb.name) == ("draining", "strict")


def test_a_release_that_the_broker_does_not_know_needs_no_bringing_back(ready: Site, release: Path) -> None:
    assert not provisioning.bring_back(ready.workspace, ready.deployment, verified(ready, release), now=ready.now)


def test_no_broker_without_its_certificate(site: Site) -> None:
    with (
        pytest.raises(CertificateMissingError),
        provisioning.open_broker(site.workspace, site.deployment),
    ):
        pytest.fail("a broker opened without a certificate")


def test_the_broker_trusts_a_simulated_root_for_simulated_releases_only(ready: Site) -> None:
    with attestation.open_verifier(ready.workspace, ready.deployment) as (verifier, _):
        assert isinstance(verifier, SgxVerifier)
        assert verifier._vendors.keys() == {PlatformKind.SGX}
    simulation.open_vendor(ready.workspace, now=ready.now)
    with provisioning.open_broker(ready.workspace, ready.deployment) as server:
        verifier = server._broker._verifier
        assert isinstance(verifier, SgxVerifier)
        vendors = verifier._vendors
        assert vendors.keys() == {PlatformKind.SGX, PlatformKind.SIMULATED}
        assert not vendors[PlatformKind.SGX].anchor.simulated
        assert vendors[PlatformKind.SIMULATED].anchor.simulated


def test_the_broker_has_a_page_of_metrics_where_it_is_asked_for(ready: Site, caplog: pytest.LogCaptureFixture) -> None:
    with provisioning.open_broker(ready.workspace, ready.deployment):
        assert "metrics" not in caplog.text
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    section = ready.deployment.broker.model_copy(update={"metrics_port": port})
    described = ready.deployment.model_copy(update={"broker": section})
    with (
        provisioning.open_broker(ready.workspace, described),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        page = answer.read().decode()
    for role in ("broker", "broker authority", "service authority", "users authority", "user"):
        assert f'sealserve_broker_certificate_expiry_timestamp_seconds{{certificate="{role}"}} ' in page


def test_the_broker_serves_remote_administration_where_it_is_asked_for(ready: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    section = ready.deployment.broker.model_copy(update={"admin_port": port})
    described = ready.deployment.model_copy(update={"broker": section})
    file = ready.directory / "alice.json"
    with (
        raises(OwnerCode.ADMINISTRATOR_AUTHORITY, match="broker admin issue"),
        provisioning.open_broker(ready.workspace, described),
    ):
        pass
    role = AdministratorRole.OPERATOR
    administrators.issue(ready.workspace, described, "alice", role, file, now=ready.now, days=1)
    url = f"https://127.0.0.1:{port}"
    with (
        provisioning.open_broker(ready.workspace, described),
        RemoteAdministration(url, AdministratorFile.read(file), now=ready.now) as administered,
    ):
        administered.enrol_platform("0" * 32, None, label="rack 3")
        issuing_row, row = administered.log_page(Selection(), after=0, limit=3).rows
    assert (row.entry.actor, row.entry.platform) == ("alice", "simulated")
    assert (issuing_row.entry.actor, issuing_row.entry.decision) == (None, "issuing-rotated")
    assert provisioning.verify_log(ready.workspace)[0].rows == 2


def test_collateral_that_is_kept_is_told_by_its_document(ready: Site) -> None:
    times = (ready.now, ready.now + timedelta(days=30))
    urls = (f"{INTEL_PCS}/sgx/certification/v4/tcb?fmspc=00906ED50000", INTEL_ROOT_CRL)

    class Client:
        def kept(self) -> dict[str, tuple[datetime, datetime]]:
            return dict.fromkeys(urls, times)

    found = attestation._documents({PlatformKind.SGX: Client()})  # type: ignore[dict-item]  # as much of one as is asked
    assert set(found) == {("sgx", "tcb?fmspc=00906ED50000"), ("sgx", INTEL_ROOT_CRL)}


def test_the_broker_signs_with_a_key_of_its_own(ready: Site, release: Path) -> None:
    provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    owner = ready.workspace.owner
    public = read_owner_key(ready.workspace.host.owner_key)
    owner.index_signing_key.rename(owner.root / "away")  # the container of the broker has none
    with provisioning.open_broker(ready.workspace, ready.deployment) as server:
        server._broker.settle()
    assert not owner.index_signing_key.exists()
    head = kept_head(owner.audit_head)
    assert head is not None
    assert head.seq == 4
    with Owner.open(ready.workspace).vault() as vault:
        own = Owner.open(ready.workspace).audit_signer().public_key()
        assert admin.verify_log(vault.database, own, kept=(head,)).rows == 4
        with raises(BrokerCode.AUDIT_HEAD_SIGNATURE):
            admin.verify_log(vault.database, public, kept=(head,))


def test_an_interrupted_rotation_is_completed_before_a_container_gets_the_key(ready: Site, release: Path) -> None:
    del release
    key = ready.workspace.owner.master_key
    beside = key.with_name("master.key.next")
    beside.touch(mode=0o600)
    beside.write_bytes(bytes(32))
    before = key.read_bytes()
    complete_rotation(ready.workspace)
    assert not beside.exists()
    assert key.read_bytes() == before


def test_deleted_rows_and_heads_are_reported_when_a_head_exists_outside(ready: Site, release: Path) -> None:
    provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    provisioning.sign_log(ready.workspace, now=ready.now)
    assert provisioning.verify_log(ready.workspace)[1]
    with closing(sqlite3.connect(ready.workspace.owner.database)) as raw, raw:
        raw.execute("DELETE FROM audit")
        raw.execute("DELETE FROM audit_heads")
    with raises(BrokerCode.AUDIT_TRUNCATED, match="ends at row 0, but a head was signed at row"):
        provisioning.verify_log(ready.workspace)


def test_a_deleted_database_is_reported_when_a_head_exists_outside(ready: Site, release: Path) -> None:
    provisioning.allow(ready.workspace, ready.deployment, release, now=ready.now)
    provisioning.sign_log(ready.workspace, now=ready.now)
    ready.workspace.owner.database.unlink()
    with pytest.raises(SealserveError, match="broker's database is missing"):
        provisioning.verify_log(ready.workspace)
