from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.harness.broker_databases import ONLY_SQLITE
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.presets import CLOUD_SMT, STRICT
from sealserve.broker import platforms, registration, releases
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.keystore import KeyId, open_keystore
from sealserve.broker.releases import Release, ReleaseAmbiguousError, ReleaseId, ReleaseUnknownError
from sealserve.broker.standing import ReleaseState, check_standing
from sealserve.errors import SealserveError
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import MrEnclave, MrSigner
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.terms import PlatformKind

SIGNER = MrSigner(b"\xee" * 32)


def _reference(number: int, svn: int = 1) -> ReferenceValues:
    return ReferenceValues(
        mr_enclave=MrEnclave(bytes([number]) * 32),
        mr_signer=SIGNER,
        isv_prod_id=1,
        isv_svn=svn,
        attribute_flags=0x8000_0000_0000_0005,
        xfrm=0x3,
        xfrm_mask=0xFFFF_FFFF_FFF9_FF1B,
    )


@pytest.fixture
def key_id(database: Database, tmp_path: Path, now: datetime) -> KeyId:
    return open_keystore(database, tmp_path / "master.key").create(database, now=now).key_id


def _release(key_id: KeyId, now: datetime, number: int = 0xA, name: str = "resnet50") -> Release:
    return Release(
        release_id=ReleaseId(f"{number:x}" * 64),
        name=name,
        platform=PlatformKind.SIMULATED,
        key_id=key_id,
        policy=AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False),
        created=now,
    )


def _with(release: Release, **rules: Any) -> Release:
    return replace(release, policy=replace(release.policy, **rules))


def _allow(database: Database, release: Release, *references: ReferenceValues, reactivate: bool = False) -> Release:
    values = {f"replica-{n}": value for n, value in enumerate(references)}
    with database.write() as connection:
        return registration.allow(connection, release, values, reactivate=reactivate)


def test_a_release_comes_back_by_each_of_its_measurements(database: Database, key_id: KeyId, now: datetime) -> None:
    release = _release(key_id, now)
    assert _allow(database, release, _reference(1), _reference(2)) == release
    with database.read() as connection:
        for number in (1, 2):
            match = releases.lookup(connection, MrEnclave(bytes([number]) * 32))
            assert match.release == release
            assert match.reference.label == f"replica-{number - 1}"
            assert match.reference.values == _reference(number).to_json()
        with raises(
            AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN,
            match=f"No registered release has an enclave with MRENCLAVE {'03' * 32}",
        ) as no:
            releases.lookup(connection, MrEnclave(b"\x03" * 32))
    assert no.value.code == "policy.mr-enclave-unknown"


def test_a_release_without_enclaves_is_an_empty_policy(database: Database, key_id: KeyId, now: datetime) -> None:
    with raises(
        AttestationCode.POLICY_EMPTY,
        match="The release resnet50 cannot be registered: it lists no enclaves that could receive its key",
    ):
        _allow(database, _release(key_id, now))


def test_a_release_needs_its_key(database: Database, now: datetime) -> None:
    with raises(
        BrokerCode.KEYSTORE_UNKNOWN_KEY,
        match=r"The keystore does not contain the key [0-9a-f]{32} of the release resnet50",
    ):
        _allow(database, _release(KeyId("00" * 16), now), _reference(1))


def test_allowing_again_adds_enclaves(database: Database, key_id: KeyId, now: datetime) -> None:
    release = _release(key_id, now)
    _allow(database, release, _reference(1))
    again = _allow(database, replace(release, created=now + timedelta(days=1)), _reference(1, svn=2), _reference(2))
    assert again == release
    with database.read() as connection:
        found = [item.values for item in releases.references_of(connection, release.release_id)]
    assert found == [_reference(1, svn=2).to_json(), _reference(2).to_json()]


def test_the_policy_changes_only_when_that_is_said(database: Database, key_id: KeyId, now: datetime) -> None:
    release = _release(key_id, now)
    _allow(database, release, _reference(1))
    for changed in (_with(release, tcb=CLOUD_SMT), _with(release, enrolled_platforms_only=True)):
        with raises(
            BrokerCode.RELEASE_POLICY,
            match=r"The release resnet50 is registered with the policy 'strict' "
            r'\(\{"tcb":\{"accept":\{"UpToDate":\[\]\},"grace":null,"name":"strict"\}\}\) for any platform, '
            r"but now has the policy .* for",
        ) as caught:
            _allow(database, changed, _reference(1), _reference(2))
        assert caught.value.code == "broker.release-policy"
        assert "--reactivate" in (caught.value.hint or "")
    with database.read() as connection:
        assert releases.get(connection, release.release_id) == release
        assert len(releases.references_of(connection, release.release_id)) == 1
    later = replace(_with(release, tcb=CLOUD_SMT, enrolled_platforms_only=True), created=now + timedelta(days=1))
    assert _allow(database, later, _reference(1), reactivate=True) == replace(later, created=now)


def test_a_release_never_changes(database: Database, key_id: KeyId, now: datetime, tmp_path: Path) -> None:
    release = _release(key_id, now)
    _allow(database, release, _reference(1))
    other = open_keystore(database, tmp_path / "master.key").create(database, now=now).key_id
    for changed in (
        replace(release, name="other"),
        replace(release, platform=PlatformKind.SGX),
        replace(release, key_id=other),
    ):
        with raises(
            BrokerCode.RELEASE_CONFLICT,
            match=r"is registered with (name|platform|key_id) .*, but now has (name|platform|key_id) ",
        ) as caught:
            _allow(database, changed, _reference(1))
        assert caught.value.code == "broker.release-conflict"
        with raises(BrokerCode.RELEASE_CONFLICT):
            _allow(database, changed, _reference(1), reactivate=True)


def test_an_enclave_belongs_to_one_release(database: Database, key_id: KeyId, now: datetime) -> None:
    _allow(database, _release(key_id, now), _reference(1))
    with raises(BrokerCode.RELEASE_CONFLICT, match=f"MRENCLAVE {'01' * 32} already belongs to the release {'a' * 64}"):
        _allow(database, _release(key_id, now, 0xB), _reference(2), _reference(1))
    with database.read() as connection:
        assert len(releases.every(connection)) == 1  # the whole transaction was rolled back


def test_draining_and_back(database: Database, key_id: KeyId, now: datetime) -> None:
    release = _release(key_id, now)
    _allow(database, release, _reference(1))
    deadline = now + timedelta(hours=1)
    with database.write() as connection:
        drained = releases.drain(connection, release.release_id, deadline=deadline, now=now)
    assert (drained.state, drained.deadline) == (ReleaseState.DRAINING, deadline)
    assert _allow(database, release, _reference(1), _reference(2)) == drained  # new enclaves do not end draining
    assert _allow(database, release, _reference(1), reactivate=True) == release
    with (
        database.write() as connection,
        raises(
            BrokerCode.DEADLINE,
            match=r"The deadline 2026-11-23T12:00:00\+00:00 is in the past \(the time is "
            r"2026-11-23T12:00:00\+00:00\)",
        ) as caught,
    ):
        releases.drain(connection, release.release_id, deadline=now, now=now)
    assert caught.value.code == "broker.deadline"


def test_revocation_is_final(database: Database, key_id: KeyId, now: datetime) -> None:
    release = _release(key_id, now)
    _allow(database, release, _reference(1))
    with database.write() as connection:
        assert releases.revoke(connection, release.release_id).state is ReleaseState.REVOKED
        assert releases.revoke(connection, release.release_id).state is ReleaseState.REVOKED
        with raises(
            BrokerCode.RELEASE_FINAL,
            match=r"The release resnet50 \([0-9a-f]{64}\) is revoked\. Revocation is permanent",
        ) as caught:
            releases.drain(connection, release.release_id, deadline=now + timedelta(1), now=now)
        assert caught.value.code == "broker.release-final"
    with raises(BrokerCode.RELEASE_FINAL):
        _allow(database, release, _reference(1))


def test_a_release_is_found_by_name_id_and_the_beginning_of_its_id(
    database: Database, key_id: KeyId, now: datetime
) -> None:
    first = _allow(database, _release(key_id, now, 0xA, "one"), _reference(1))
    second = replace(_release(key_id, now, 0xA, "two"), release_id=ReleaseId("a" * 32 + "b" * 32))
    _allow(database, second, _reference(2))
    with database.read() as connection:
        assert releases.find(connection, "one") == first
        assert releases.find(connection, first.release_id) == first
        assert releases.find(connection, "a" * 32 + "b") == second
        with pytest.raises(
            ReleaseAmbiguousError, match=r"'aaaaaa' matches several releases, for example [0-9a-f]{64}"
        ) as ambiguous:
            releases.find(connection, "aaaaaa")
        for unknown in ("aaaaa", "three", "%" * 8, ""):
            with pytest.raises(
                ReleaseUnknownError, match=r"The release .* is not registered with the broker"
            ) as caught:
                releases.find(connection, unknown)
            assert caught.value.code == "broker.release-unknown"
    assert ambiguous.value.code == "broker.release-ambiguous"


def test_a_release_id_is_a_digest(key_id: KeyId, now: datetime) -> None:
    with pytest.raises(
        ReleaseUnknownError, match="The release id is invalid: expected 64 lower-case hex digits, got 'abc'"
    ):
        replace(_release(key_id, now), release_id=ReleaseId("abc"))


def test_enrolled_platforms(database: Database, now: datetime) -> None:
    with database.write() as connection:
        platforms.enrol(connection, PlatformKind.SGX, "ab" * 16, label="rack 1", now=now)
        platforms.enrol(connection, PlatformKind.SGX, "ab" * 16, label="rack 2", now=now)
        assert set(platforms.enrolled(connection, PlatformKind.SGX)) == {"ab" * 16}
        assert set(platforms.enrolled(connection, PlatformKind.SIMULATED)) == frozenset()
        assert [(found.platform_id, found.label) for found in platforms.every(connection)] == [("ab" * 16, "rack 2")]
        for wrong in ("ab", "AB" * 16, "ab" * 17, "ab" * 16 + "\n"):
            with raises(
                BrokerCode.PLATFORM_ID, match="The platform id is invalid: expected 32 lower-case hex digits, got"
            ) as caught:
                platforms.enrol(connection, PlatformKind.SGX, wrong, label="", now=now)
            assert caught.value.code == "broker.platform-id"
        with raises(
            BrokerCode.PLATFORM_ID, match="The platform label is too long: expected at most 64 characters, got 65"
        ):
            platforms.enrol(connection, PlatformKind.SGX, "cd" * 16, label="x" * 65, now=now)


def test_the_evaluation_floor_only_rises_and_belongs_to_a_root(
    database: Database, now: datetime, tmp_path: Path
) -> None:
    intel, other = TrustAnchor.intel().fingerprint, Vendor.create(tmp_path / "vendor", now=now).anchor.fingerprint
    with database.write() as connection:
        assert platforms.evaluation_floor(connection, intel) == 0
        for number in (17, 16, 18, 3):
            platforms.raise_evaluation_floor(connection, intel, PlatformKind.SGX, number, now=now)
        assert platforms.evaluation_floor(connection, intel) == 18
        assert platforms.evaluation_floor(connection, other) == 0
        platforms.raise_evaluation_floor(connection, other, PlatformKind.SIMULATED, 5, now=now)
        assert platforms.evaluation_floors(connection) == {"sgx": 18, "simulated": 5}


def test_a_release_that_is_not_there_cannot_be_changed(database: Database, now: datetime) -> None:
    absent = ReleaseId("c" * 64)
    with database.write() as connection:
        with pytest.raises(ReleaseUnknownError, match=f"The release '{absent}' is not registered with the broker"):
            releases.revoke(connection, absent)
        with pytest.raises(
            ReleaseUnknownError,
            match=r"The release '[0-9a-f]{64}' is not registered with the broker\. Run `sealserve broker "
            r"releases` to list the registered releases",
        ):
            releases.drain(connection, absent, deadline=now + timedelta(1), now=now)


def test_the_key_of_a_revoked_release_is_not_given_under_another_id(
    database: Database, key_id: KeyId, now: datetime
) -> None:
    before, later = _release(key_id, now), _release(key_id, now, 0xB, "again")
    _allow(database, before, _reference(1))
    _allow(database, _release(key_id, now, 0xC, "twin"), _reference(3))
    with database.write() as connection:
        releases.revoke(connection, before.release_id)
    with raises(
        BrokerCode.RELEASE_FINAL, match=f"its key {key_id} also belongs to the release resnet50, which is revoked"
    ) as no:
        _allow(database, later, _reference(2))
    assert no.value.code == "broker.release-final"
    with database.read() as connection:  # a release that was allowed earlier has lost the key too
        match = releases.lookup(connection, MrEnclave(bytes([3]) * 32))
    with raises(BrokerCode.POLICY_RELEASE_REVOKED):
        check_standing(match.release.state, match.release.deadline, now)


@ONLY_SQLITE
@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("releases", {"state": "half"}), ("releases", {"platform": "tdx"}), ("releases", {"created": "yesterday"}),
        ("releases", {"deadline": b"soon"}), ("releases", {"policy": b"strict"}),
        ("releases", {"policy": "{}"}), ("releases", {"policy": '{"version":2}'}), ("releases", {"policy": b"\xff"}),
        ("releases", {"release_id": b"x"}), ("reference_values", {"measurement": "no hex"}),
        ("reference_values", {"reference": "no JSON"}), ("reference_values", {"reference": b"{}"}),
        ("reference_values", {"reference": "[]"}),
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_somebody_changed_is_one_clear_error(
    database: Database, key_id: KeyId, now: datetime, table: str, change: dict[str, Any]
) -> None:
    release = _release(key_id, now)
    _allow(database, release, _reference(1))
    ((column, value),) = change.items()
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.exec_driver_sql(f"UPDATE {table} SET {column} = ?", (value,))  # noqa: S608  # of this test
        if column == "release_id":
            connection.exec_driver_sql("UPDATE reference_values SET release_id = ?", (value,))
    with database.read() as connection, pytest.raises(SealserveError) as caught:
        _read_all(connection)
    codes = {"broker.database-content", "policy.tcb-policy", "policy.reference-values", "broker.release-unknown"}
    assert caught.value.code in codes


def _read_all(connection: Connection) -> None:
    for found in releases.every(connection):
        releases.references_of(connection, found.release_id)
    releases.lookup(connection, MrEnclave(bytes([1]) * 32))
