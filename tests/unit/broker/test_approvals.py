"""Manual approval: who gets a key, and what an attacker with access to the database or with many platforms achieves."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update
from tests.harness.broker_databases import ONLY_SQLITE
from tests.harness.errors import raises
from tests.harness.reports import REFERENCE
from tests.unit.broker.conftest import Stage

from sealserve.broker import admin, approval_requests, audit
from sealserve.broker.admin import Actor
from sealserve.broker.approval_requests import LONGEST, Pending
from sealserve.broker.audit_entry import Decision
from sealserve.broker.codes import BrokerCode
from sealserve.broker.decision import Broker
from sealserve.broker.releases import Release, ReleaseId, ReleaseUnknownError
from sealserve.broker.row_adoption import adopt
from sealserve.broker.row_authentication import History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.broker.tables import APPROVALS, AUDIT
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes
from sealserve.sgx.report import MrEnclave
from sealserve.sgx.simulated.platform import SimulatedPlatform

PENDING = BrokerCode.POLICY_APPROVAL_PENDING
NOT_AUTHENTIC = BrokerCode.DATABASE_AUTHENTICATION
PEER = "192.0.2.7:40000"
OTHER = MrEnclave(b"\x09" * 32)


@pytest.fixture
def manual(stage: Stage) -> Stage:
    """A release that requires manual approval."""
    stage.release = replace(stage.release, policy=replace(stage.release.policy, manual_approval=True))
    stage.allow(stage.release, reactivate=True)
    return stage


def get_key(stage: Stage, *, broker: Broker | None = None, peer: str = PEER, **changes: Any) -> None:
    certificate = stage.ratls(**changes).certificate
    assert (broker or stage.broker()).release_key(certificate, peer=peer) == stage.made.key


def request(stage: Stage, *, peer: str = PEER, **changes: Any) -> str:
    """Send a request that the broker refuses, and return the id of its platform."""
    with raises(PENDING):
        get_key(stage, peer=peer, **changes)
    platform_id = stage.rows()[-1].entry.platform_id
    assert platform_id is not None
    return platform_id


def approve(stage: Stage, platform_id: str, release: str = "resnet50", **changes: Any) -> None:
    approval_requests.approve(stage.database, release, platform_id, now=stage.now, **changes)


def waiting(stage: Stage) -> list[Pending]:
    return approval_requests.pending(stage.database, now=stage.now)


def approval_rows(stage: Stage) -> list[dict[str, Any]]:
    with stage.database.read() as connection:
        return [row._asdict() for row in connection.execute(select(APPROVALS))]


def insert_row(stage: Stage, row: Mapping[str, Any]) -> None:
    """Write a row as another program does, without the key that authenticates rows."""
    with stage.database.write() as connection:
        connection.execute(delete(APPROVALS))
        connection.execute(insert(APPROVALS).values(**row))


def other_release(stage: Stage, **changes: Any) -> Release:
    made = stage.keystore.create(stage.database, now=stage.now)
    values = {"release_id": ReleaseId("b" * 64), "name": "bert", "key_id": made.key_id} | changes
    release = replace(stage.release, **values)
    stage.allow(release, replace(REFERENCE, mr_enclave=OTHER))
    return release


def another_platform(stage: Stage, number: int = 1) -> SimulatedPlatform:
    return SimulatedPlatform.create(stage.vendor, stage.folder / f"platform-{number}", now=stage.now)


def test_a_platform_gets_the_key_only_after_its_approval(manual: Stage) -> None:
    platform_id = request(manual)
    manual.now += timedelta(minutes=1)
    assert request(manual, peer="192.0.2.7:40001") == platform_id
    assert waiting(manual) == [
        Pending(
            release_id=manual.release.release_id,
            release="resnet50",
            platform=manual.release.platform,
            platform_id=platform_id,
            tcb_status="UpToDate",
            first=manual.now - timedelta(minutes=1),
            last=manual.now,
            count=2,
            network="192.0.2.7",
        )
    ]
    approve(manual, platform_id, actor=Actor(peer="198.51.100.1:5", name="alice"))
    assert waiting(manual) == []
    get_key(manual)
    entry = next(row.entry for row in manual.rows() if row.entry.decision is Decision.APPROVED)
    assert (entry.actor, entry.peer, entry.platform_id, entry.release_id) == (
        "alice", "198.51.100.1:5", platform_id, manual.release.release_id,
    )  # fmt: skip
    assert entry.detail == "until 2026-12-23 12:01:00 UTC"


def test_a_refusal_that_is_recorded_after_the_approval_is_not_a_request(manual: Stage) -> None:
    platform_id = request(manual)
    refused = manual.rows()[-1].entry
    approve(manual, platform_id, validity=timedelta(hours=1))
    with manual.database.write() as connection:
        audit.append(connection, refused)
    assert waiting(manual) == []
    manual.now += timedelta(hours=1)
    assert [item.count for item in waiting(manual)] == [1]


def test_a_release_without_the_rule_needs_no_approval(stage: Stage) -> None:
    get_key(stage)
    assert waiting(stage) == []


def test_the_refusal_contains_the_claims_and_the_next_step(manual: Stage) -> None:
    with raises(PENDING, match="expected a valid approval, got no approval.* Run `sealserve broker pending`"):
        get_key(manual)
    entry = manual.rows()[-1].entry
    assert (entry.decision, entry.code, entry.peer, entry.tcb_status) == (
        Decision.REFUSED, "policy.approval-pending", PEER, "UpToDate",
    )  # fmt: skip
    assert entry.claims


def test_an_approval_expires(manual: Stage) -> None:
    platform_id = request(manual)
    approve(manual, platform_id, validity=timedelta(hours=1))
    start = manual.now
    manual.now = start + timedelta(minutes=59, seconds=59)
    get_key(manual)  # a restart needs no second approval
    for late in (timedelta(hours=1), timedelta(hours=1, seconds=1), timedelta(days=9)):
        manual.now = start + late
        with raises(PENDING, match="got an approval until 2026-11-23 13:00:00 UTC"):
            get_key(manual)
    assert [item.count for item in waiting(manual)] == [3]
    manual.now = start + timedelta(minutes=30)  # the clock was corrected: the broker's clock decides
    get_key(manual)
    manual.now = start + timedelta(days=10)
    approve(manual, platform_id)
    get_key(manual)
    assert admin.verify_log(manual.database).not_compared == ()


def test_a_withdrawn_approval_ends_at_once(manual: Stage) -> None:
    platform_id = request(manual)
    approve(manual, platform_id)
    get_key(manual)
    approval_requests.withdraw(manual.database, "resnet50", platform_id, now=manual.now)
    assert manual.rows()[-1].entry.decision is Decision.APPROVAL_REMOVED
    assert waiting(manual) == []  # a request is new only after the change
    request(manual)
    assert [item.count for item in waiting(manual)] == [1]
    assert admin.verify_log(manual.database).not_compared == ()
    with raises(BrokerCode.NOT_APPROVED):
        approval_requests.withdraw(manual.database, "resnet50", platform_id, now=manual.now)


def test_an_approval_that_ends_during_the_appraisal_counts_as_ended(manual: Stage) -> None:
    platform_id = request(manual)
    approve(manual, platform_id)

    def withdraw() -> None:
        if approval_rows(manual):
            approval_requests.withdraw(manual.database, "resnet50", platform_id, now=manual.now)

    with raises(PENDING):
        manual.broker().release_key(manual.ratls().certificate, peer=PEER, appraised=withdraw)
    assert Decision.RELEASED not in {row.entry.decision for row in manual.rows()}


def test_an_approval_is_for_one_release_and_one_platform(manual: Stage) -> None:
    platform_id = request(manual)
    other_release(manual)
    approve(manual, platform_id, "bert")
    request(manual)
    approve(manual, platform_id)
    get_key(manual)
    another = request(manual, platform=another_platform(manual))
    assert another != platform_id
    assert [item.platform_id for item in waiting(manual)] == [another]


def test_an_approval_does_not_replace_another_rule(manual: Stage) -> None:
    platform_id = request(manual)
    approve(manual, platform_id)
    strict = replace(manual.release, policy=replace(manual.release.policy, enrolled_platforms_only=True))
    manual.allow(strict, reactivate=True)
    with pytest.raises(SealserveError) as refused:
        get_key(manual)
    assert refused.value.code == "policy.platform-unknown"
    admin.revoke(manual.database, "resnet50", now=manual.now)
    with raises(BrokerCode.POLICY_RELEASE_REVOKED):
        get_key(manual)
    with raises(BrokerCode.RELEASE_FINAL, match="no platform can be approved"):
        approve(manual, platform_id)


def test_a_revoked_or_ended_release_waits_for_nothing(manual: Stage) -> None:
    request(manual)
    admin.drain(manual.database, "resnet50", deadline=manual.now + timedelta(hours=1), now=manual.now)
    assert len(waiting(manual)) == 1
    manual.now += timedelta(hours=1)
    assert waiting(manual) == []
    admin.revoke(manual.database, "resnet50", now=manual.now)
    assert waiting(manual) == []


def test_an_attestation_result_needs_no_approval(manual: Stage) -> None:
    manual.broker().attest(manual.ratls().certificate, peer=PEER, purpose="result")
    assert manual.rows()[-1].entry.decision is Decision.ATTESTED


@pytest.mark.parametrize(
    "platform_id",
    ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n", "../" * 10, "' OR 1=1 --", "\u0660" * 32],
)
def test_a_malformed_platform_id_is_rejected(manual: Stage, platform_id: str) -> None:
    before = len(manual.rows())
    for change in (approval_requests.approve, approval_requests.withdraw):
        with raises(BrokerCode.PLATFORM_ID):
            change(manual.database, "resnet50", platform_id, now=manual.now)
    assert len(manual.rows()) == before


@pytest.mark.parametrize("validity", [timedelta(), timedelta(seconds=59), -timedelta(days=1), LONGEST * 2])
def test_a_validity_out_of_range_is_rejected(manual: Stage, validity: timedelta) -> None:
    with raises(BrokerCode.APPROVAL_VALIDITY):
        approve(manual, "0" * 32, validity=validity)


def test_an_unknown_release_is_rejected(manual: Stage) -> None:
    with raises(ReleaseUnknownError):
        approve(manual, "0" * 32, "bert")
    assert approval_rows(manual) == []


# A program that can write to the database.


@pytest.mark.parametrize("tag", [None, "", "0" * 64])
def test_an_inserted_approval_gives_no_key(manual: Stage, tag: str | None) -> None:
    platform_id = request(manual)
    last = manual.rows()[-1].seq
    for changed in (None, last, last + 1):
        row = {"release_id": "a" * 64, "platform_id": platform_id, "approved": "2026-11-23T12:00:00.000000+00:00",
               "until": "2099-01-01T00:00:00.000000+00:00", "changed": changed, "tag": tag}  # fmt: skip
        insert_row(manual, row)
        with raises(NOT_AUTHENTIC, match="table approvals .* tag is missing or wrong"):
            get_key(manual)
        with raises(NOT_AUTHENTIC):
            approval_requests.withdraw(manual.database, "resnet50", platform_id, now=manual.now)
    with raises(BrokerCode.AUDIT_STATE, match="approvals a+ .*the log does not record this row"):
        admin.verify_log(manual.database)


@pytest.mark.parametrize(
    "change",
    [{"until": "2099-01-01T00:00:00.000000+00:00"}, {"approved": "2026-11-23T12:00:00.000001+00:00"},
     {"platform_id": "0" * 32}, {"tag": None}, {"changed": None}],
)  # fmt: skip
def test_a_changed_approval_gives_no_key(manual: Stage, change: dict[str, Any]) -> None:
    platform_id = request(manual)
    approve(manual, platform_id, validity=timedelta(hours=1))
    with manual.database.write() as connection:
        connection.execute(update(APPROVALS).values(**change))
    manual.now += timedelta(hours=2)
    with pytest.raises(SealserveError) as refused:
        get_key(manual)
    assert refused.value.code == (PENDING if "platform_id" in change else NOT_AUTHENTIC)
    with raises(BrokerCode.AUDIT_STATE, match="approvals a+"):
        admin.verify_log(manual.database)


def test_an_approval_that_was_moved_to_another_platform_or_release_gives_no_key(manual: Stage) -> None:
    other_release(manual)
    platform_id = request(manual)
    approve(manual, platform_id, "bert")
    (row,) = approval_rows(manual)
    insert_row(manual, {**row, "release_id": "a" * 64})
    with raises(NOT_AUTHENTIC):
        get_key(manual)
    insert_row(manual, row)
    platform = another_platform(manual)
    other = request(manual, platform=platform)
    insert_row(manual, {**row, "release_id": "a" * 64, "platform_id": other})
    with raises(NOT_AUTHENTIC):
        get_key(manual, platform=platform)


@pytest.mark.parametrize("restart", [False, True])
def test_an_old_approval_cannot_be_put_back(manual: Stage, restart: bool) -> None:
    platform_id = request(manual)
    approve(manual, platform_id, validity=timedelta(days=300))
    (longer,) = approval_rows(manual)
    approve(manual, platform_id, validity=timedelta(hours=1))
    (shorter,) = approval_rows(manual)
    approval_requests.withdraw(manual.database, "resnet50", platform_id, now=manual.now)
    if restart:
        assert manual.database.history is not None
        manual.database.history = History(manual.database.history.key)
    for row in (longer, shorter):
        insert_row(manual, row)
        with raises(NOT_AUTHENTIC, match="it is outdated, because audit row"):
            get_key(manual)


def test_a_deleted_approval_gives_no_key(manual: Stage) -> None:
    platform_id = request(manual)
    approve(manual, platform_id)
    with manual.database.write() as connection:
        connection.execute(delete(APPROVALS))
    request(manual)
    with raises(BrokerCode.AUDIT_STATE, match="approvals a+ .*: the row is missing, but audit row"):
        admin.verify_log(manual.database)


@pytest.mark.parametrize("column", ["code", "platform_id", "content", "hash", "tag"])
def test_a_forged_request_is_not_shown(manual: Stage, column: str) -> None:
    get_row = manual.rows()[-1]
    platform_id = request(manual)
    forged: dict[str, Any] = {"code": "policy.approval-pending", "platform_id": "0" * 32, "hash": "0" * 64, "tag": None}
    with manual.database.write() as connection:
        last = connection.execute(select(AUDIT).order_by(AUDIT.c.seq.desc()).limit(1)).one()
        forged["content"] = last.content.replace(platform_id.encode(), b"0" * 32)
        if column == "code":  # a row about something else becomes a request
            seq = get_row.seq
            changed = {"code": forged["code"], "decision": "refused", "platform_id": platform_id}
        else:
            seq, changed = last.seq, {column: forged[column]}
        connection.execute(update(AUDIT).where(AUDIT.c.seq == seq).values(**changed))
    with pytest.raises(SealserveError) as found:
        waiting(manual)
    assert found.value.code in {BrokerCode.AUDIT_CHAIN, BrokerCode.AUDIT_TRUNCATED, NOT_AUTHENTIC}


def test_the_tables_of_an_accepted_database_keep_their_approvals(manual: Stage) -> None:
    platform_id = request(manual)
    approve(manual, platform_id)
    manual.database.history = None
    key = RowKey(SecretBytes(b"n" * KEY_SIZE))
    with manual.database.write() as connection:
        adopt(connection, key, now=manual.now)
    manual.database.history = History(key)
    get_key(manual)


@ONLY_SQLITE
def test_a_flood_of_requests_has_a_limited_number_of_rows(manual: Stage) -> None:
    """Many genuine platforms of one network cannot fill the log. The platforms of other networks still appear."""
    broker = manual.broker()
    platforms = [another_platform(manual, number) for number in range(4)]
    certificates = [manual.ratls(platform).certificate for platform in platforms]
    for number in range(100):
        with raises(PENDING):
            broker.release_key(certificates[number % 4], peer=f"198.51.100.9:{number + 1}")
    honest = manual.ratls().certificate
    with raises(PENDING):
        broker.release_key(honest, peer=PEER)
    found = waiting(manual)
    assert sum(item.count for item in found) <= 61
    assert found[0].network == "192.0.2.7"
    assert len(found) == 5


def test_two_brokers_use_an_approval_at_once(manual: Stage) -> None:
    first, second = manual.broker(name="first"), manual.broker(name="second")
    with raises(PENDING):
        get_key(manual, broker=first)
    platform_id = manual.rows()[-1].entry.platform_id
    assert platform_id is not None
    approve(manual, platform_id)
    get_key(manual, broker=second)
    approval_requests.withdraw(manual.database, "resnet50", platform_id, now=manual.now)
    for broker in (first, second):
        with raises(PENDING):
            get_key(manual, broker=broker)
