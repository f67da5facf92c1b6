"""Databases that earlier versions wrote are upgraded without loss of data.

``schema_1`` was written by commit 72a34bd, ``schema_2`` by version 0.2. ``database.sql`` is SQLite's dump of the
database. The JSON files are the output of that version's ``sealserve broker``.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine, delete, select, update
from tests.harness.errors import raises

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.presets import CLOUD_SMT, STRICT
from sealserve.broker import admin, audit, platforms, releases
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.migration import HEAD
from sealserve.broker.standing import ReleaseState
from sealserve.broker.tables import AUDIT, METADATA, REVISION, SCHEMA
from sealserve.cli import console
from sealserve.cli.broker_json import encode
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import MrEnclave, MrSigner
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.terms import PlatformKind

VERSIONS = ("schema_1", "schema_2")
ROWS = {"schema_1": 6, "schema_2": 7}
SIGNER = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


def _reference(number: int) -> ReferenceValues:
    return ReferenceValues(
        mr_enclave=MrEnclave(bytes([number]) * 32),
        mr_signer=MrSigner(b"\xee" * 32),
        isv_prod_id=1,
        isv_svn=number,
        attribute_flags=0x8000_0000_0000_0005,
        xfrm=0x3,
        xfrm_mask=0xFFFF_FFFF_FFF9_FF1B,
    )


@pytest.fixture(params=VERSIONS)
def written(request: pytest.FixtureRequest) -> Path:
    """The folder of what an earlier version wrote."""
    return Path(__file__).parent / str(request.param)


@pytest.fixture
def path(tmp_path: Path, written: Path) -> Path:
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript((written / "database.sql").read_text())
    return path


@pytest.fixture
def upgraded(path: Path) -> Iterator[Database]:
    with Database.open(path) as opened:
        yield opened


def _schema(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as opened:
        query = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
        # An added column is on the line of the column before it.
        return [(kind, name, " ".join(sql.split())) for kind, name, sql in opened.execute(query)]


def test_an_upgraded_database_has_the_schema_of_a_new_one(upgraded: Database, path: Path, tmp_path: Path) -> None:
    Database.open(tmp_path / "new.sqlite").close()
    assert _schema(path) == _schema(tmp_path / "new.sqlite")
    assert upgraded.name == str(path)


def test_releases_keep_their_policy_their_state_and_their_enclaves(upgraded: Database) -> None:
    with upgraded.read() as connection:
        resnet50, bert = releases.every(connection)
        assert (resnet50.name, resnet50.state, resnet50.platform) == (
            "resnet50", ReleaseState.ACTIVE, PlatformKind.SIMULATED
        )  # fmt: skip
        assert resnet50.policy == AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False)
        assert (bert.state, bert.deadline) == (ReleaseState.DRAINING, datetime(2026, 11, 23, 13, tzinfo=UTC))
        assert bert.policy == AppraisalPolicy(tcb=CLOUD_SMT, enrolled_platforms_only=True)
        for number, release in ((1, resnet50), (2, resnet50), (3, bert)):
            match = releases.lookup(connection, MrEnclave(bytes([number]) * 32))
            assert match.release == release
            assert match.reference.values == _reference(number).to_json()


def test_the_audit_log_still_verifies_with_its_signed_heads(upgraded: Database, written: Path) -> None:
    verified = admin.verify_log(upgraded, SIGNER.public_key())
    assert (verified.rows, verified.signatures) == (ROWS[written.name], True)
    with upgraded.write() as connection:
        audit.append(connection, Entry(time=datetime.now(UTC), peer="p", decision=Decision.REFUSED, code="x"))
    assert admin.verify_log(upgraded, SIGNER.public_key()).rows == ROWS[written.name] + 1


def test_the_evaluation_floor_and_the_enrolled_platforms_stay(upgraded: Database) -> None:
    with upgraded.read() as connection:
        assert platforms.evaluation_floor(connection, TrustAnchor.intel().fingerprint) == 17
        assert set(platforms.enrolled(connection, PlatformKind.SGX)) == {"ab" * 16}


def test_the_owner_sees_the_same_values(upgraded: Database, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (
        ("releases", admin.every_release(upgraded)),
        ("log", admin.log(upgraded)),
        ("platforms", admin.every_platform(upgraded)),
        ("status", admin.status(upgraded)),
    ):
        console.print_json(encode(value))
        shown = json.loads(capsys.readouterr().out.replace(upgraded.name, "DATABASE"))
        _assert_same(json.loads((written / f"{name}.json").read_text()), shown)


def _assert_same(before: Any, after: Any) -> None:
    """Assert that a document has each earlier value. It may have more fields than an earlier version wrote."""
    if isinstance(before, dict):
        for name, value in before.items():
            _assert_same(value, after[name])
    elif isinstance(before, list):
        for left, right in zip(before, after, strict=True):
            _assert_same(left, right)
    else:
        assert before == after


def test_an_upgrade_happens_once(path: Path) -> None:
    Database.open(path).close()
    with closing(sqlite3.connect(path)) as opened:
        before = list(opened.iterdump())
    Database.open(path).close()
    with closing(sqlite3.connect(path)) as opened:
        assert list(opened.iterdump()) == before


BROKEN = {  # what another program did to the database, and the error of the upgrade
    "no policy": ("schema_1", "UPDATE releases SET tcb_policy = 'no JSON'", BrokerCode.DATABASE_CONTENT),
    "a policy of bytes": ("schema_1", "UPDATE releases SET tcb_policy = x'ff'", BrokerCode.DATABASE_CONTENT),
    "a table in the way": ("schema_2", "CREATE TABLE audit_format_1 (seq)", BrokerCode.DATABASE),
    "a column is missing": ("schema_2", "ALTER TABLE audit DROP COLUMN peer", BrokerCode.DATABASE),
}


@pytest.mark.parametrize(("written", "change", "code"), BROKEN.values(), ids=BROKEN, indirect=["written"])
def test_an_upgrade_that_fails_changes_nothing(path: Path, change: str, code: BrokerCode) -> None:
    with closing(sqlite3.connect(path)) as opened:
        opened.execute(change)
        opened.commit()
        before = list(opened.iterdump())
    with raises(code):
        Database.open(path)
    with closing(sqlite3.connect(path)) as opened:
        assert list(opened.iterdump()) == before


@pytest.mark.parametrize("column", ["detail", "peer", "mr_enclave"])
def test_a_row_that_was_changed_before_the_upgrade_is_still_found(path: Path, column: str) -> None:
    with closing(sqlite3.connect(path)) as opened:
        opened.execute(f"UPDATE audit SET {column} = 'changed' WHERE seq = 3")  # noqa: S608  # of this test
        opened.commit()
    with Database.open(path) as upgraded, raises(BrokerCode.AUDIT_CHAIN, match="Row 3"):
        admin.verify_log(upgraded, SIGNER.public_key())


def test_a_long_log_is_upgraded_in_portions(path: Path, written: Path) -> None:
    same = (
        "peer, decision, code, detail, release_id, platform, mr_enclave, mr_signer, platform_id, tcb_status, advisories"
    )
    first, rows = ROWS[written.name] + 1, ROWS[written.name] + 1200
    with closing(sqlite3.connect(path)) as opened:
        opened.execute(
            f"WITH RECURSIVE more(n) AS (SELECT {first} UNION SELECT n + 1 FROM more WHERE n < {rows}) "  # noqa: S608
            f"INSERT INTO audit (seq, time, {same}, quote_digest, previous_hash, hash) "
            f"SELECT n, time, {same}, quote_digest, previous_hash, hash FROM more, audit WHERE seq = 1"
        )
        opened.commit()
    with Database.open(path) as upgraded, upgraded.read() as connection:
        assert [found.seq for found in connection.execute(select(AUDIT.c.seq).order_by(AUDIT.c.seq))] == list(
            range(1, rows + 1)
        )


def test_the_revisions_create_the_tables_of_a_new_database(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'by-revisions.sqlite'}")
    config = Config()
    config.set_main_option("script_location", "sealserve.broker:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [HEAD]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        found = compare_metadata(MigrationContext.configure(connection), METADATA)
        assert [change for change in found if getattr(change[1], "name", "") != REVISION.name] == []
        assert connection.execute(select(SCHEMA.c.version)).scalar_one() == 3  # sealserve 0.2 rejects this number
    engine.dispose()
    Database.open(tmp_path / "new.sqlite").close()
    assert _schema(tmp_path / "by-revisions.sqlite") == _schema(tmp_path / "new.sqlite")


@pytest.mark.parametrize("revision", ["0099", "", "' OR 1=1", "head", "base"])
def test_the_database_of_a_later_version_is_refused(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "broker.sqlite"
    with Database.open(path) as opened, opened.write() as connection:
        connection.execute(update(REVISION).values(version_num=revision))
    before = path.read_bytes()
    with raises(
        BrokerCode.DATABASE_VERSION,
        match=rf"The database .*broker\.sqlite has revision {re.escape(repr(revision))}, but this version of sealserve "
        rf"supports revisions up to {HEAD}",
    ) as caught:
        Database.open(path)
    assert caught.value.code == "broker.database-version"
    assert "A downgrade is not supported" in str(caught.value.hint)
    assert path.read_bytes() == before


def test_a_database_without_its_revision_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite"
    with Database.open(path) as opened, opened.write() as connection:
        connection.execute(delete(REVISION))
    with raises(BrokerCode.DATABASE_VERSION, match="has revision None"):
        Database.open(path)


@pytest.mark.parametrize("version", [0, 3, 7])
def test_another_number_of_a_schema_is_refused(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as opened:
        opened.execute(f"UPDATE schema SET version = {version}")  # noqa: S608  # of this test
        opened.commit()
    with raises(BrokerCode.DATABASE_VERSION, match=rf"has schema version {version}, but this version"):
        Database.open(path)


def test_what_is_allowed_again_after_an_upgrade_is_no_change(upgraded: Database, now: datetime) -> None:
    with upgraded.read() as connection:
        (resnet50, _) = releases.every(connection)
    before = upgraded.snapshot()
    admin.allow(upgraded, resnet50, {"replica-0": _reference(1), "replica-1": _reference(2)}, now=now)
    assert upgraded.snapshot() == before
