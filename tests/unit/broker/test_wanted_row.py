"""An administrator of the database who changes the answers of queries, while each row in them is genuine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select
from tests.harness.broker_databases import ONLY_POSTGRESQL, ONLY_SQLITE
from tests.harness.errors import raises
from tests.harness.postgresql import Server
from tests.harness.reports import REFERENCE
from tests.unit.broker.conftest import Stage

from sealserve.broker import (
    admin,
    approval_requests,
    audit,
    platforms,
    prepared,
    releases,
    stored_key,
)
from sealserve.broker.audit_end import Known
from sealserve.broker.codes import BrokerCode
from sealserve.broker.releases import ReleaseId
from sealserve.broker.row_authentication import History
from sealserve.broker.tables import KEYS, RELEASES
from sealserve.broker.wanted_row import check_wanted
from sealserve.sgx.report import MrEnclave
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.terms import PlatformKind

ANOTHER_ROW = r"The database returned another row of the table {}: expected the {} "
IDS = "^[0-9a-f]{32}$"
EQUAL = (
    "CREATE SCHEMA evil",
    "GRANT USAGE ON SCHEMA evil TO PUBLIC",
    (
        "CREATE FUNCTION evil.equal(varchar, varchar) RETURNS boolean LANGUAGE sql IMMUTABLE AS "
        "$$SELECT $1 OPERATOR(pg_catalog.=) $2 OR ($1 ~ '{1}' AND $2 ~ '{1}')$$"
    ),
    "CREATE OPERATOR evil.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = evil.equal)",
    "ALTER DATABASE {} SET search_path = evil, pg_catalog, public",
)

VIEW = (
    "CREATE VIEW keys AS SELECT CASE WHEN random() > 0 THEN key_id ELSE '{wanted}' END AS key_id, wrapper, format, "
    "wrapped, created FROM genuine WHERE key_id = '{other}'"
)


@contextmanager
def equal_texts(stage: Stage, server: Server, form: str) -> Iterator[None]:
    """Let the operator ``=`` return true for each two texts of a form, without any change of a row."""
    assert server.shared is not None
    with server.administer(server.shared) as connection:
        try:
            for statement in EQUAL:
                connection.execute(statement.format(server.shared, form).encode())
            stage.database.close()  # new connections use the new search path
            yield
        finally:
            connection.execute(f"ALTER DATABASE {server.shared} RESET search_path".encode())
            stage.database.close()
            connection.execute("DROP SCHEMA evil CASCADE")


def get_key(stage: Stage, platform: SimulatedPlatform | None = None, **changes: MrEnclave) -> None:
    assert stage.broker().release_key(stage.ratls(platform, **changes).certificate, peer="p") == stage.made.key


@ONLY_POSTGRESQL
def test_the_approval_of_a_platform_approves_no_other_platform(stage: Stage, postgresql: Server) -> None:
    stage.release = replace(stage.release, policy=replace(stage.release.policy, manual_approval=True))
    stage.allow(stage.release, reactivate=True)
    with raises(BrokerCode.POLICY_APPROVAL_PENDING):
        get_key(stage)
    (waiting,) = approval_requests.pending(stage.database, now=stage.now)
    approval_requests.approve(stage.database, "resnet50", waiting.platform_id, now=stage.now)
    other = SimulatedPlatform.create(stage.vendor, stage.folder / "other", now=stage.now)
    get_key(stage)
    with raises(BrokerCode.POLICY_APPROVAL_PENDING):
        get_key(stage, other)
    with equal_texts(stage, postgresql, IDS):
        with raises(BrokerCode.DATABASE_AUTHENTICATION, match=ANOTHER_ROW.format("approvals", "platform_id")):
            get_key(stage, other)
        get_key(stage)


@ONLY_POSTGRESQL
def test_an_enclave_gets_no_key_of_another_release(stage: Stage, postgresql: Server) -> None:
    first = stage.keystore.create(stage.database, now=stage.now)
    mr_enclave = MrEnclave(b"\x09" * 32)
    stage.allow(
        replace(stage.release, release_id=ReleaseId("b" * 64), name="bert", key_id=first.key_id),
        replace(REFERENCE, mr_enclave=mr_enclave),
    )
    with (
        equal_texts(stage, postgresql, IDS),
        raises(BrokerCode.DATABASE_AUTHENTICATION, match="another row of the table"),
        stage.database.read() as connection,
    ):
        for key_id in (stage.made.key_id, first.key_id):
            assert stored_key.find(connection, key_id).key_id == key_id


@ONLY_POSTGRESQL
def test_a_command_changes_no_other_row_than_the_named_row(stage: Stage, postgresql: Server) -> None:
    later = stage.now + timedelta(hours=1)
    admin.enrol_platform(stage.database, PlatformKind.SIMULATED, "ab" * 16, label="ours", now=stage.now)
    with stage.database.write() as connection:
        platforms.raise_evaluation_floor(connection, "early:" + "f" * 58, PlatformKind.SGX, 20, now=stage.now)
    with equal_texts(stage, postgresql, "."):
        for change in (
            lambda: admin.drain(stage.database, "bert", deadline=later, now=stage.now),
            lambda: admin.revoke(stage.database, "b" * 64, now=stage.now),
            lambda: stage.allow(replace(stage.release, release_id=ReleaseId("b" * 64))),
            lambda: stage.allow(stage.release, replace(REFERENCE, mr_enclave=MrEnclave(b"\x09" * 32))),
            lambda: admin.enrol_platform(stage.database, PlatformKind.SGX, "cd" * 16, label="x", now=stage.now),
        ):
            with raises(BrokerCode.DATABASE_AUTHENTICATION, match="another row of the table"):
                change()
        with stage.database.read() as connection:
            for read in (
                lambda: releases.get(connection, ReleaseId("b" * 64)),
                lambda: releases.references_of(connection, ReleaseId("b" * 64)),
                lambda: releases.lookup(connection, MrEnclave(b"\x09" * 32)),
                lambda: platforms.evaluation_floor(connection, "f" * 64),
                lambda: platforms.enrolled(connection, PlatformKind.SGX),
            ):
                with raises(BrokerCode.DATABASE_AUTHENTICATION, match="another row of the table"):
                    read()
    assert admin.find_release(stage.database, "resnet50").release.deadline is None


@ONLY_POSTGRESQL
def test_a_log_that_depends_on_the_query_hides_no_revocation(stage: Stage, postgresql: Server) -> None:
    assert stage.database.history is not None
    assert postgresql.shared is not None
    with stage.database.read() as connection:
        before = prepared.rows(connection, select(RELEASES))
    admin.revoke(stage.database, "resnet50", now=stage.now)
    with stage.database.read() as connection:
        seq, digest = audit.head(connection)
    with postgresql.administer(postgresql.shared) as server:
        server.execute("ALTER TABLE audit RENAME TO genuine")
        server.execute(
            "CREATE VIEW audit AS SELECT * FROM genuine WHERE seq < 2 OR current_query() LIKE '%WHERE audit.seq = %'"
        )
        server.execute("GRANT SELECT ON audit TO PUBLIC")
        server.execute("UPDATE releases SET state = 'active', changed = %(changed)s, tag = %(tag)s", before[0])
        try:
            # A broker that starts knows the end of the log from the signed head outside of the database.
            stage.database.history = History(stage.database.history.key, Known(seq=seq, hash=digest))
            with raises(BrokerCode.AUDIT_TRUNCATED, match="Row 2 of the audit log is missing or was replaced"):
                get_key(stage)
        finally:
            server.execute("DROP VIEW audit")
            server.execute("ALTER TABLE genuine RENAME TO audit")


@ONLY_SQLITE
def test_a_view_in_place_of_a_table_swaps_no_keys(stage: Stage) -> None:
    """SQLite computes a column of a view for the condition and again for the result: each time with another value."""
    other = stage.keystore.create(stage.database, now=stage.now)
    with stage.database.write() as connection:
        for statement in (
            "PRAGMA legacy_alter_table = ON",
            "ALTER TABLE keys RENAME TO genuine",
            VIEW.format(wanted=stage.made.key_id, other=other.key_id),
        ):
            connection.exec_driver_sql(statement)
    answers: set[object] = set()
    for _ in range(100):
        try:
            with stage.database.read() as connection:
                answers.add(stored_key.find(connection, stage.made.key_id).key_id)
        except Exception as error:  # noqa: BLE001  # the key is missing, or the row is another row
            answers.add(getattr(error, "code", type(error)))
    assert BrokerCode.DATABASE_AUTHENTICATION in answers
    assert other.key_id not in answers


def test_the_values_in_the_message_are_bounded() -> None:
    check_wanted(KEYS, {"key_id": "a"}, key_id="a")
    with raises(BrokerCode.DATABASE_AUTHENTICATION, match="expected the name x, got y{64}[.] Compare"):
        check_wanted(RELEASES, {"name": "y" * 1000}, name="x")
