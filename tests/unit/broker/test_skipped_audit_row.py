"""Triggers in the database that keep the audit row of a released key out of the log."""

import pytest
from sqlalchemy import delete
from tests.harness.broker_databases import ONLY_POSTGRESQL, ONLY_SQLITE
from tests.harness.errors import raises
from tests.harness.postgresql import Server
from tests.unit.broker.conftest import Stage

from sealserve.broker.codes import BrokerCode
from sealserve.broker.tables import AUDIT

IGNORE = "BEFORE INSERT ON audit WHEN NEW.decision = 'released' BEGIN SELECT RAISE(IGNORE); END"
REMOVE = "AFTER INSERT ON audit WHEN NEW.decision = 'released' BEGIN DELETE FROM audit WHERE decision = 'released'; END"
NOT_WRITTEN = "Row [0-9] of the audit log was not written: the database skipped it"


def get_key(stage: Stage) -> None:
    assert stage.broker().release_key(stage.ratls().certificate, peer="p") == stage.made.key


@ONLY_SQLITE
def test_no_key_leaves_if_a_trigger_skips_its_row(stage: Stage) -> None:
    with stage.database.write() as connection:
        connection.exec_driver_sql(f"CREATE TRIGGER quiet {IGNORE}")
    for _ in range(2):
        with raises(BrokerCode.DATABASE_AUTHENTICATION, match=NOT_WRITTEN):
            get_key(stage)
    with stage.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER quiet")
    get_key(stage)
    stage.rows()  # the chain verifies


@ONLY_POSTGRESQL
@pytest.mark.parametrize(
    "change",
    [
        "CREATE RULE quiet AS ON INSERT TO audit WHERE NEW.decision = 'released' DO INSTEAD NOTHING",
        (
            "CREATE TRIGGER quiet BEFORE INSERT ON audit FOR EACH ROW WHEN (NEW.decision = 'released') "
            "EXECUTE FUNCTION skip()"
        ),
    ],
)
def test_no_key_leaves_if_a_server_skips_its_row(stage: Stage, postgresql: Server, change: str) -> None:
    assert postgresql.shared is not None
    kind = change.split()[1]
    with postgresql.administer(postgresql.shared) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$"
        )
        connection.execute(change.encode())
        try:
            with raises(BrokerCode.DATABASE_AUTHENTICATION, match=NOT_WRITTEN):
                get_key(stage)
        finally:
            connection.execute(f"DROP {kind} quiet ON audit".encode())
            connection.execute("DROP FUNCTION skip()")
    get_key(stage)
    stage.rows()


@ONLY_SQLITE
def test_a_row_that_vanishes_at_once_is_found_by_the_next_decision(stage: Stage) -> None:
    with stage.database.write() as connection:
        connection.exec_driver_sql(f"CREATE TRIGGER quiet {REMOVE}")
    get_key(stage)  # the trigger removes its row within the transaction
    with raises(BrokerCode.AUDIT_TRUNCATED, match="Row 3 of the audit log is missing"):
        get_key(stage)


def test_a_row_that_is_deleted_at_once_is_found_by_the_next_decision(stage: Stage) -> None:
    get_key(stage)
    assert stage.database.history is not None
    history, stage.database.history = stage.database.history, None
    with stage.database.write() as connection:  # as another program, before another transaction reads the row
        connection.execute(delete(AUDIT).where(AUDIT.c.decision == "released"))
    stage.database.history = history
    with raises(BrokerCode.AUDIT_TRUNCATED, match="Row 3 of the audit log is missing"):
        get_key(stage)
