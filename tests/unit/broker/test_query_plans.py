"""How SQLite executes the statements of each key release. Reading a table of 100,000 releases would take too long."""

from typing import Any

import pytest
from sqlalchemy.dialects import sqlite
from tests.harness.broker_databases import ONLY_SQLITE

from sealserve.broker import approvals, audit, platforms, registration, releases, stored_key
from sealserve.broker.database import Database
from sealserve.broker.prepared import Prepared

STATEMENTS = {
    "release by measurement": (releases._BY_MEASUREMENT, {"measurement": "01" * 32}),
    "revoked release by key": (registration._REVOKED_WITH_KEY, {"key_id": "01" * 16}),
    "key": (stored_key._BY_ID, {"key_id": "01" * 16}),
    "enrolled platforms": (platforms._ENROLLED, {"platform": "sgx"}),
    "evaluation floor": (platforms._FLOOR, {"anchor": "01" * 32}),
    "approval": (approvals._APPROVAL, {"release_id": "01" * 32, "platform_id": "01" * 16}),
    "last row of the log": (audit._LAST, {}),
}


@ONLY_SQLITE
@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_of_a_key_release_reads_a_whole_table(database: Database, name: str) -> None:
    given, parameters = STATEMENTS[name]
    statement: Any = given.statement if isinstance(given, Prepared) else given
    compiled = statement.compile(dialect=sqlite.dialect())
    values = tuple((compiled.params | parameters)[key] for key in compiled.positiontup or ())
    with database.read() as connection:
        plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", values)]
    searches = [line for line in plan if line.startswith("SEARCH")]
    scans = [line for line in plan if line.startswith("SCAN")]
    if name == "last row of the log":  # the end of the primary key, limited to one row
        assert scans == ["SCAN audit"]
        assert not [line for line in plan if "TEMP B-TREE" in line]
        return
    assert searches, plan
    assert scans in ([], ["SCAN CONSTANT ROW"]), plan
    assert all(" INDEX " in line for line in searches), plan
