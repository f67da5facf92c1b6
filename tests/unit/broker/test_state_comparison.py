"""The comparison of the tables with the log, without the key that authenticates rows: only the log decides here."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from tests.harness.broker_databases import ONLY_SQLITE
from tests.harness.errors import raises
from tests.harness.reports import REFERENCE
from tests.unit.broker.conftest import Stage

from sealserve.broker import admin, platforms, releases
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.row_adoption import adopt
from sealserve.broker.row_authentication import TABLES, History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.broker.tables import AUDIT
from sealserve.secret import SecretBytes
from sealserve.sgx.report import MrEnclave
from sealserve.terms import PlatformKind

OTHER = MrEnclave(b"\x09" * 32)


@pytest.fixture
def lived(stage: Stage) -> Stage:
    """A database in which each kind of change happened, before rows had tags."""
    stage.database.history = None
    now = stage.now
    stage.broker().release_key(stage.ratls().certificate, peer="p")
    stage.allow(stage.release, REFERENCE, replace(REFERENCE, mr_enclave=OTHER))
    admin.drain(stage.database, "resnet50", deadline=now + timedelta(hours=1), now=now)
    for number in (1, 2):
        admin.enrol_platform(stage.database, PlatformKind.SGX, f"{number:032x}", label=f"rack {number}", now=now)
    admin.withdraw_platform(stage.database, PlatformKind.SGX, f"{1:032x}", now=now)
    return stage


def execute(stage: Stage, statement: str) -> None:
    with stage.database.write() as connection:
        connection.exec_driver_sql(statement)


def test_a_genuine_database_agrees_with_its_log(lived: Stage) -> None:
    assert admin.verify_log(lived.database).not_compared == ()
    lived.allow(lived.release, reactivate=True)
    assert admin.verify_log(lived.database).not_compared == ()
    admin.revoke(lived.database, "resnet50", now=lived.now)
    assert admin.verify_log(lived.database).not_compared == ()


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        (
            "UPDATE releases SET state = 'active', deadline = NULL",
            "releases a+: state is active, but audit row 5 records draining",
        ),
        (
            "UPDATE releases SET deadline = '2099-01-01T00:00:00.000000+00:00'",
            "deadline is 2099.*, but audit row 5 records 2026",
        ),
        ("UPDATE releases SET name = 'other'", "name is other, but audit row 5 records resnet50"),
        ("UPDATE releases SET policy = replace(policy, 'strict', 'lax')", "releases a+: policy SHA-256 is"),
        ("UPDATE releases SET platform = 'sgx'", "platform is sgx, but audit row 5 records simulated"),
        (
            "DELETE FROM reference_values WHERE label = 'replica-1'",
            "reference_values 0909.*: the row is missing, but audit row 4",
        ),
        (
            "UPDATE reference_values SET label = 'x' WHERE label = 'replica-1'",
            "label is x, but audit row 4 records replica-1",
        ),
        ("UPDATE reference_values SET reference = replace(reference, '0202', '0303')", "reference SHA-256 is"),
        ("UPDATE reference_values SET reference = '{'", "reference SHA-256 is"),
        (
            "UPDATE reference_values SET measurement = 'ff' WHERE label = 'replica-1'",
            "reference_values ff: the log does not record",
        ),
        ("DELETE FROM platforms", "platforms sgx 0+2: the row is missing, but audit row 7 records it"),
        ("UPDATE platforms SET label = 'mine'", "label is mine, but audit row 7 records rack 2"),
        (
            "INSERT INTO platforms (platform, platform_id, label, enrolled) VALUES ('sgx', 'f', 'l', 'e')",
            "platforms sgx f: the log does not record this row",
        ),
        ("UPDATE evaluation_floor SET number = 1", "number is 1, but audit row 2 records 17"),
        ("DELETE FROM evaluation_floor", "evaluation_floor .*: the row is missing, but audit row 2 records it"),
    ],
)
def test_each_difference_names_its_row(lived: Stage, statement: str, difference: str) -> None:
    execute(lived, statement)
    with raises(BrokerCode.AUDIT_STATE, match=difference):
        admin.verify_log(lived.database)


def test_a_key_that_is_missing_is_found(lived: Stage, kind: str) -> None:
    if kind == "sqlite":  # the file's other programs do not enforce the relation between the tables
        with closing(sqlite3.connect(lived.database.name)) as other, other:
            other.execute("DELETE FROM keys")
    else:
        execute(lived, "ALTER TABLE releases DROP CONSTRAINT releases_key_id_fkey")
        execute(lived, "DELETE FROM keys")
    with raises(BrokerCode.AUDIT_STATE, match="keys [^ ]+: the key of release resnet50 is missing"):
        admin.verify_log(lived.database)


def test_an_undone_revocation_is_found(lived: Stage) -> None:
    admin.revoke(lived.database, "resnet50", now=lived.now)
    execute(lived, "UPDATE releases SET state = 'active'")
    with raises(BrokerCode.AUDIT_STATE, match="state is active, but audit row 9 records revoked"):
        admin.verify_log(lived.database)


def test_many_differences_are_shortened(lived: Stage) -> None:
    with lived.database.write() as connection:
        for number in range(30):
            platforms.enrol(connection, PlatformKind.SGX, f"{number + 10:032x}", label="x", now=lived.now)
    with raises(BrokerCode.AUDIT_STATE, match="; and 10 more"):
        admin.verify_log(lived.database)


def test_facts_that_an_earlier_version_did_not_record_are_named(lived: Stage) -> None:
    with lived.database.write() as connection:  # the rows of an earlier version have no such facts
        connection.exec_driver_sql("DELETE FROM audit WHERE seq >= 2")
        connection.exec_driver_sql("DELETE FROM platforms")
        connection.exec_driver_sql("DELETE FROM reference_values WHERE label = 'replica-1'")
        connection.exec_driver_sql("UPDATE releases SET state = 'active', deadline = NULL")
        for table in TABLES:
            connection.execute(update(table).values(changed=None, tag=None))
        connection.execute(update(AUDIT).values(changes=None, tag=None))
    lived.database.history = None
    assert admin.verify_log(lived.database).not_compared == (
        "evaluation_floor " + next(iter(_floor(lived))) + ": number",
    )  # fmt: skip
    # The adoption of the rows records the floor.
    with lived.database.write() as connection:
        adopt(connection, key := RowKey(SecretBytes(b"n" * KEY_SIZE)), now=lived.now)
    lived.database.history = History(key)
    assert admin.verify_log(lived.database).not_compared == ()
    # An inserted floor is not taken for the floor of an earlier version.
    execute(lived, "INSERT INTO evaluation_floor (anchor, platform, number, seen) VALUES ('ffff', 'sgx', 1, 'now')")
    with raises(BrokerCode.AUDIT_STATE, match="evaluation_floor f+: the log does not record this row"):
        admin.verify_log(lived.database)


def _floor(stage: Stage) -> Iterator[str]:
    with stage.database.read() as connection:
        yield from connection.exec_driver_sql("SELECT anchor FROM evaluation_floor").scalars()


@ONLY_SQLITE
@pytest.mark.parametrize("schema", ["schema_1", "schema_2"])
def test_the_log_of_an_earlier_version_is_compared(schema: str, tmp_path: Path, kind: str) -> None:
    assert kind == "sqlite"
    path = tmp_path / "broker.sqlite"
    with closing(sqlite3.connect(path)) as opened:
        opened.executescript((Path(__file__).parent / schema / "database.sql").read_text())
    path.chmod(0o600)
    with Database.open(path) as database:
        key = RowKey(SecretBytes(b"n" * KEY_SIZE))
        with database.write() as connection:
            adopt(connection, key, now=datetime.now(UTC))
        database.history = History(key)
        not_compared = admin.verify_log(database).not_compared
    names = {fact.rpartition(": ")[2] for fact in not_compared}
    assert names <= {"name", "key_id", "policy SHA-256", "reference SHA-256", "number"}
    assert "policy SHA-256" in names


def test_a_wrong_tag_is_a_difference_too(stage: Stage) -> None:
    execute(stage, "UPDATE releases SET created = '2020-01-01T00:00:00.000000+00:00'")
    with raises(BrokerCode.AUDIT_STATE, match="releases a+: The row a+ of the table releases .* its tag is missing"):
        admin.verify_log(stage.database)


def test_the_log_records_what_it_compares(stage: Stage, now: datetime) -> None:
    undo: Callable[[], object] = lambda: stage.allow(stage.release, reactivate=True)  # noqa: E731
    admin.drain(stage.database, "resnet50", deadline=now + timedelta(hours=1), now=now)
    undo()
    with stage.database.read() as connection:
        assert releases.every(connection)[0].deadline is None
    assert admin.verify_log(stage.database).not_compared == ()
