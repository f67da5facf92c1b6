"""Attacks on the copies of values in audit rows, with which a process finds the changes of the log."""

import pytest
from tests.harness.broker_databases import ONLY_SQLITE
from tests.harness.errors import raises
from tests.unit.broker.conftest import Stage
from tests.unit.broker.test_row_authentication import execute, get_key, put_back, restarted, stored

from sealserve.broker import admin, audit, platforms
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.audited_subjects import CHANGES
from sealserve.broker.codes import BrokerCode
from sealserve.broker.row_adoption import adopt
from sealserve.broker.row_authentication import History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.secret import SecretBytes
from sealserve.terms import PlatformKind

pytestmark = ONLY_SQLITE


@pytest.mark.parametrize("decision", sorted(CHANGES))
@pytest.mark.parametrize("restart", [False, True])
def test_a_row_that_only_looks_like_a_change_hides_no_revocation(
    stage: Stage, decision: Decision, restart: bool
) -> None:
    get_key(stage)
    (before,) = stored(stage, "releases")
    (key_row,) = [row["seq"] for row in stored(stage, "audit") if row["decision"] == "released"]
    admin.revoke(stage.database, "resnet50", now=stage.now)
    put_back(stage, "releases", before)
    # The number of changes is again the number that the last row states, if the release of the key counts as a change.
    execute(stage, "UPDATE audit SET decision = ? WHERE seq = ?", decision, key_row)
    if restart:
        restarted(stage)
    with raises(BrokerCode.DATABASE_AUTHENTICATION, BrokerCode.AUDIT_CHAIN):
        get_key(stage)


def test_a_row_that_only_looks_like_the_adoption_hides_no_floor(stage: Stage) -> None:
    """The search for changes begins at the newest adoption. A planted adoption would hide the first change."""
    execute(stage, "DELETE FROM audit")
    execute(stage, "DELETE FROM reference_values")
    execute(stage, "DELETE FROM releases")
    restarted(stage)
    now, series = stage.now, "f" * 64
    with stage.database.write() as connection:
        platforms.raise_evaluation_floor(connection, series, PlatformKind.SIMULATED, 18, now=now)
    with stage.database.write() as connection:
        audit.append(connection, Entry(time=now, peer="p", decision=Decision.REFUSED, code="policy.limit"))
    execute(stage, "UPDATE audit SET decision = 'authenticated' WHERE seq = 2")
    execute(stage, "DELETE FROM evaluation_floor")
    restarted(stage)
    with (
        raises(BrokerCode.AUDIT_CHAIN, match="Row 2 .* column decision differs from its content"),
        stage.database.read() as connection,
    ):
        platforms.evaluation_floor(connection, series)


def test_a_floor_of_an_earlier_version_cannot_be_deleted(stage: Stage) -> None:
    """An earlier version recorded no floor in the log. The adoption of its rows records them."""
    get_key(stage)
    stage.database.history = None
    with stage.database.write() as connection:
        adopt(connection, key := RowKey(SecretBytes(b"n" * KEY_SIZE)), now=stage.now)
    stage.database.history = History(key)
    get_key(stage)
    assert admin.verify_log(stage.database).not_compared == ()
    execute(stage, "DELETE FROM evaluation_floor")
    with raises(BrokerCode.DATABASE_AUTHENTICATION, match="it was deleted, although audit row 5 records it"):
        get_key(stage)


def test_a_damaged_floor_is_a_clear_error_of_the_adoption(stage: Stage) -> None:
    get_key(stage)
    stage.database.history = None
    execute(stage, "UPDATE evaluation_floor SET number = x'00'")
    with (
        raises(BrokerCode.DATABASE_CONTENT, match="A row of the table evaluation_floor .* has invalid content"),
        stage.database.write() as connection,
    ):
        adopt(connection, RowKey(SecretBytes(b"n" * KEY_SIZE)), now=stage.now)
