"""Attacks of a program that can write to the database, but does not have the key that authenticates its rows."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, and_, delete, insert, select, update
from tests.harness.broker_databases import ONLY_SQLITE
from tests.harness.errors import raises
from tests.harness.reports import REFERENCE
from tests.unit.broker.conftest import Stage

from sealserve.attestation.codes import AttestationCode
from sealserve.broker import admin, audit, platforms, releases, row_authentication
from sealserve.broker.audit_end import Known
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.row_adoption import adopt
from sealserve.broker.row_authentication import History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.broker.tables import (
    AUDIT,
    EVALUATION_FLOOR,
    METADATA,
    PLATFORMS,
    REFERENCE_VALUES,
    RELEASES,
    REVISION,
    SCHEMA,
)
from sealserve.secret import SecretBytes
from sealserve.sgx.report import MrEnclave
from sealserve.terms import PlatformKind

FOREIGN = MrEnclave(b"\x09" * 32)
NOT_AUTHENTIC = BrokerCode.DATABASE_AUTHENTICATION


@contextmanager
def attacker(stage: Stage) -> Iterator[Connection]:
    """Write to the database without the transactions of sealserve, and so without the key."""
    with stage.database._engine.engine.connect() as connection:
        yield connection
        connection.commit()


def stored(stage: Stage, table: str) -> list[dict[str, Any]]:
    with attacker(stage) as connection:
        return [row._asdict() for row in connection.execute(select(METADATA.tables[table]))]


def put_back(stage: Stage, name: str, row: Mapping[str, Any]) -> None:
    table = METADATA.tables[name]
    key = and_(*(column == row[column.name] for column in table.primary_key))
    with attacker(stage) as connection:
        if connection.execute(update(table).where(key).values(row)).rowcount == 0:
            connection.execute(insert(table).values(row))


def execute(stage: Stage, statement: str, *values: object) -> None:
    with attacker(stage) as connection:
        if connection.dialect.name == "postgresql":
            statement = statement.replace("?", "%s").replace(
                "replace(content, 'revoked', 'refused')",
                "convert_to(replace(convert_from(content, 'UTF8'), 'revoked', 'refused'), 'UTF8')",
            )
        connection.exec_driver_sql(statement, values or None)


def get_key(stage: Stage, **changes: Any) -> None:
    assert stage.broker().release_key(stage.ratls(**changes).certificate, peer="p") == stage.made.key


def restarted(stage: Stage, known: Known | None = None) -> None:
    """Forget what this process knows of the log, as a restart does."""
    assert stage.database.history is not None
    stage.database.history = History(stage.database.history.key, known)


def test_an_inserted_reference_value_gives_a_foreign_enclave_no_key(stage: Stage) -> None:
    (row,) = stored(stage, "reference_values")
    reference = json.dumps(json.loads(row["reference"]) | {"mr_enclave": FOREIGN.hex()})
    for tag in (row["tag"], None, "", "0" * 64, "é" * 64):
        put_back(stage, "reference_values", {**row, "measurement": FOREIGN.hex(), "reference": reference, "tag": tag})
        with raises(NOT_AUTHENTIC, match=f"The row {FOREIGN.hex()} of the table reference_values .* tag is missing"):
            get_key(stage, mr_enclave=FOREIGN)
    get_key(stage)  # the other enclaves are not affected


@ONLY_SQLITE
def test_a_tag_of_another_type_gives_no_key(stage: Stage) -> None:
    """A column of SQLite accepts values of each type."""
    execute(stage, "UPDATE reference_values SET tag = ?", b"x" * 64)
    with raises(NOT_AUTHENTIC, match="tag is missing"):
        get_key(stage)


@pytest.mark.parametrize(
    "change",
    ["UPDATE releases SET policy = replace(policy, 'strict', 'lax')", "UPDATE releases SET name = 'other'",
     "UPDATE releases SET created = '2020-01-01T00:00:00.000000+00:00'", "UPDATE releases SET tag = NULL",
     "UPDATE releases SET changed = NULL", "UPDATE releases SET deadline = '2099-01-01T00:00:00.000000+00:00'",
     "UPDATE reference_values SET label = 'replica-7'", "UPDATE reference_values SET tag = 'x'",
     "UPDATE reference_values SET reference = replace(reference, '1', '2')"],
)  # fmt: skip
def test_a_changed_row_gives_no_key(stage: Stage, change: str) -> None:
    get_key(stage)
    execute(stage, change)
    with raises(NOT_AUTHENTIC, match="its tag is missing or wrong"):
        get_key(stage)


@pytest.mark.parametrize("restart", [False, True])
def test_a_revocation_cannot_be_undone(stage: Stage, restart: bool) -> None:
    (before,) = stored(stage, "releases")
    admin.revoke(stage.database, "resnet50", now=stage.now)
    put_back(stage, "releases", before)
    if restart:
        restarted(stage)
    with raises(NOT_AUTHENTIC, match="audit row 2 records a later change"):
        get_key(stage)
    # A command of the owner does not bless the row either.
    for again in (
        lambda: stage.allow(stage.release, reactivate=True),
        lambda: admin.find_release(stage.database, "resnet50"),
    ):
        with raises(NOT_AUTHENTIC):
            again()


@pytest.mark.parametrize(
    "change",
    ["UPDATE audit SET decision = 'released' WHERE seq = 2", "UPDATE audit SET release_id = NULL WHERE seq = 2",
     "DELETE FROM audit WHERE seq = 2", "UPDATE audit SET tag = NULL WHERE seq = 2",
     "UPDATE audit SET content = replace(content, 'revoked', 'refused') WHERE seq = 2",
     "UPDATE audit SET changes = 1 WHERE seq > 1", "UPDATE audit SET decision = 'authenticated' WHERE seq = 3",
     "UPDATE audit SET decision = 'authenticated' WHERE seq = 2"],
)  # fmt: skip
def test_a_revocation_cannot_be_hidden_in_the_log(stage: Stage, change: str) -> None:
    (before,) = stored(stage, "releases")
    admin.revoke(stage.database, "resnet50", now=stage.now)
    with raises(BrokerCode.POLICY_RELEASE_REVOKED):
        get_key(stage)  # row 3 follows the revocation
    put_back(stage, "releases", before)
    execute(stage, change)
    restarted(stage)
    with raises(NOT_AUTHENTIC, BrokerCode.AUDIT_CHAIN):
        get_key(stage)


def test_a_forged_audit_row_is_found(stage: Stage) -> None:
    stage_row = stored(stage, "audit")[-1]
    with stage.database.write() as connection:  # append as sealserve does, but without the key
        keyless(connection)
        audit.append(connection, Entry(time=stage.now, peer="owner", decision=Decision.REACTIVATED, code="ok"))
    with raises(NOT_AUTHENTIC, match="Row 2 of the audit log is not authentic"):
        get_key(stage)
    put_back(stage, "audit", {**stage_row, "seq": 2, "changes": 2})
    with raises(NOT_AUTHENTIC):
        get_key(stage)


def keyless(connection: Connection) -> None:
    connection.execution_options(**{row_authentication.OPTION: None})


def test_an_older_database_is_found_by_a_running_broker_and_by_a_head_elsewhere(stage: Stage) -> None:
    tables = [table for table in METADATA.sorted_tables if table not in (REVISION, SCHEMA)]
    older = {table: stored(stage, table.name) for table in tables}
    admin.revoke(stage.database, "resnet50", now=stage.now)
    with stage.database.read() as reading:
        seq, digest = audit.head(reading)
        assert row_authentication.of(reading) is not None
        releases.every(reading)
    with attacker(stage) as connection:
        for table in reversed(tables):
            connection.execute(delete(table))
        for table, rows in older.items():
            for row in rows:
                connection.execute(insert(table).values(row))
    with raises(BrokerCode.AUDIT_TRUNCATED, match="Row 2 of the audit log is missing"):
        get_key(stage)
    restarted(stage, Known(seq=seq, hash=digest))
    with raises(BrokerCode.AUDIT_TRUNCATED):
        get_key(stage)
    # This is the limit: without a head outside of the database, a whole older database is valid after a restart.
    restarted(stage)
    get_key(stage)


def test_a_deleted_or_lowered_floor_is_found(stage: Stage) -> None:
    get_key(stage)
    (floor,) = stored(stage, "evaluation_floor")
    execute(stage, "DELETE FROM evaluation_floor")
    with raises(NOT_AUTHENTIC, match="it was deleted, although audit row 2 records it"):
        get_key(stage)
    put_back(stage, "evaluation_floor", {**floor, "number": 1})
    with raises(NOT_AUTHENTIC, match="tag"):
        get_key(stage)
    put_back(stage, "evaluation_floor", floor)
    with stage.database.write() as connection:
        platforms.raise_evaluation_floor(connection, floor["anchor"], PlatformKind.SIMULATED, 18, now=stage.now)
    put_back(stage, "evaluation_floor", floor)
    with raises(NOT_AUTHENTIC, match="records a later change"):
        get_key(stage)


def test_an_enrolment_cannot_be_invented_or_put_back(stage: Stage) -> None:
    release = replace(stage.release, policy=replace(stage.release.policy, enrolled_platforms_only=True))
    stage.allow(release, reactivate=True)
    with raises(AttestationCode.POLICY_PLATFORM_UNKNOWN):
        get_key(stage)
    (platform_id,) = [row["platform_id"] for row in stored(stage, "audit") if row["platform_id"]]
    row = {
        "platform": "simulated",
        "platform_id": platform_id,
        "label": "mine",
        "enrolled": "2026-01-01",
        "tag": "0" * 64,
    }
    put_back(stage, "platforms", row)
    with raises(NOT_AUTHENTIC, match="table platforms"):
        get_key(stage)
    execute(stage, "DELETE FROM platforms")
    admin.enrol_platform(stage.database, PlatformKind.SIMULATED, platform_id, label="ours", now=stage.now)
    (enrolled,) = stored(stage, "platforms")
    get_key(stage)
    put_back(stage, "platforms", {**row, "platform_id": "f" * 32})  # does not concern this platform
    get_key(stage)
    execute(stage, "DELETE FROM platforms WHERE platform_id = ?", "f" * 32)
    admin.withdraw_platform(stage.database, PlatformKind.SIMULATED, platform_id, now=stage.now)
    put_back(stage, "platforms", enrolled)
    with raises(NOT_AUTHENTIC, match="records a later change"):
        get_key(stage)


def test_a_revocation_covers_each_release_with_the_key(stage: Stage) -> None:
    other = replace(stage.release, release_id=releases.ReleaseId("b" * 64), name="other")
    stage.allow(other, replace(REFERENCE, mr_enclave=FOREIGN))
    admin.revoke(stage.database, "other", now=stage.now)
    execute(stage, "DELETE FROM reference_values WHERE release_id = ?", "b" * 64)
    execute(stage, "DELETE FROM releases WHERE release_id = ?", "b" * 64)
    with raises(BrokerCode.POLICY_RELEASE_REVOKED):
        get_key(stage)


def test_each_change_and_its_undo_work_with_tags(stage: Stage) -> None:
    get_key(stage)
    admin.drain(stage.database, "resnet50", deadline=stage.now + timedelta(hours=1), now=stage.now)
    get_key(stage)
    stage.allow(stage.release, REFERENCE, replace(REFERENCE, mr_enclave=FOREIGN), reactivate=True)
    get_key(stage, mr_enclave=FOREIGN)
    restarted(stage)
    get_key(stage)
    stage.rows()  # verifies the chain and its tags
    assert len(admin.find_release(stage.database, "resnet50").enclaves) == 2


def test_a_change_that_was_rolled_back_leaves_no_trace(stage: Stage) -> None:
    with pytest.raises(RuntimeError), stage.database.write() as connection:  # noqa: PT012  # the transaction fails
        entry = Entry(time=stage.now, peer="owner", decision=Decision.REVOKED, code="ok", release_id="a" * 64)
        audit.append(connection, entry)
        releases.revoke(connection, stage.release.release_id)
        raise RuntimeError
    get_key(stage)


def test_a_row_cannot_change_without_its_audit_row(stage: Stage) -> None:
    with pytest.raises(ValueError, match="recorded no change"), stage.database.write() as connection:
        releases.revoke(connection, stage.release.release_id)


def test_concurrent_readers_with_an_older_view_are_not_refused(stage: Stage) -> None:
    with stage.database.read() as reading:
        releases.lookup(reading, REFERENCE.measurement)  # the view of this transaction begins here
        admin.drain(stage.database, "resnet50", deadline=stage.now + timedelta(hours=1), now=stage.now)
        admin.find_release(stage.database, "resnet50")
        assert releases.lookup(reading, REFERENCE.measurement).release.deadline is None


def test_rows_of_an_earlier_version_are_adopted_once(stage: Stage) -> None:
    get_key(stage)
    admin.enrol_platform(stage.database, PlatformKind.SGX, "ab" * 16, label="ours", now=stage.now)
    with stage.database.write() as connection:  # as an earlier version left it
        for table in (RELEASES, REFERENCE_VALUES, PLATFORMS, EVALUATION_FLOOR):
            connection.execute(update(table).values(changed=None, tag=None))
        connection.execute(update(AUDIT).values(changes=None, tag=None))
    stage.database.history = None
    key = RowKey(SecretBytes(b"n" * KEY_SIZE))
    with stage.database.write() as connection:
        assert not row_authentication.is_authenticated(connection)
        adopt(connection, key, now=stage.now)
        assert row_authentication.is_authenticated_by(connection, key)
        rows = connection.execute(select(RELEASES.c.changed)).scalars().all()
    assert rows == [5]
    stage.database.history = History(key)
    get_key(stage)
    admin.drain(stage.database, "resnet50", deadline=stage.now + timedelta(hours=1), now=stage.now)
    restarted(stage)
    get_key(stage)
    stage.rows()
    # An untagged row that appears afterwards is rejected.
    (row,) = stored(stage, "reference_values")
    put_back(stage, "reference_values", {**row, "measurement": FOREIGN.hex(), "tag": None})
    with raises(NOT_AUTHENTIC):
        get_key(stage, mr_enclave=FOREIGN)


def test_a_key_has_one_size_and_shows_nothing(stage: Stage) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RowKey(SecretBytes(b"short"))
    assert stage.database.history is not None
    assert "kkk" not in repr(vars(stage.database.history.key))


@ONLY_SQLITE
def test_the_cost_of_a_decision_does_not_grow(stage: Stage) -> None:
    """Count the statements instead of measuring time: no statement may read all rows of the log."""
    get_key(stage)
    with stage.database.write() as connection:
        for number in range(50):
            entry = Entry(time=stage.now, peer="p", decision=Decision.REFUSED, code=f"c{number}")
            audit.append(connection, entry)
    with stage.database.read() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT seq FROM audit WHERE decision IN ('allowed', 'revoked') AND seq > 3"
        ).all()
        assert all(
            "USING" in row[-1] and "INDEX ix_audit_decision_seq" in row[-1] for row in plan if "SEARCH" in row[-1]
        )
        assert not any(row[-1].startswith("SCAN") for row in plan)


def test_an_insert_of_sqlalchemy_without_the_key_is_refused_too(stage: Stage) -> None:
    with stage.database.write() as connection:
        row = {"anchor": "f" * 64, "platform": "sgx", "number": 1, "seen": "now"}
        connection.execute(insert(EVALUATION_FLOOR).values(row))
    with raises(NOT_AUTHENTIC), stage.database.read() as connection:
        platforms.evaluation_floors(connection)
