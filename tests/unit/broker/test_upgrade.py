"""A database with schema 1, written by the sealserve version before schema 2, is upgraded without loss of data.

``schema_1/database.sql`` is SQLite's dump of it. The JSON files are the output of that version's ``sealserve broker``.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.errors import raises

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.tcb_policy import CLOUD_SMT, STRICT
from sealserve.broker import admin, audit, platforms, releases
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.standing import ReleaseState
from sealserve.cli import console
from sealserve.cli.broker_json import encode
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import MrEnclave, MrSigner
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.terms import PlatformKind

WRITTEN = Path(__file__).parent / "schema_1"
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript((WRITTEN / "database.sql").read_text())
    return path


@pytest.fixture
def upgraded(path: Path) -> Iterator[Database]:
    with Database.open(path) as opened:
        yield opened


def _schema(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as opened:
        query = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
        return opened.execute(query).fetchall()


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


def test_the_audit_log_still_verifies_with_its_signed_heads(upgraded: Database) -> None:
    verified = admin.verify_log(upgraded, SIGNER.public_key())
    assert (verified.rows, verified.signatures) == (6, True)
    with upgraded.write() as connection:
        audit.append(
            connection, audit.Entry(time=datetime.now(UTC), peer="p", decision=audit.Decision.REFUSED, code="x")
        )
    assert admin.verify_log(upgraded, SIGNER.public_key()).rows == 7


def test_the_evaluation_floor_and_the_enrolled_platforms_stay(upgraded: Database) -> None:
    with upgraded.read() as connection:
        assert platforms.evaluation_floor(connection, TrustAnchor.intel().fingerprint) == 17
        assert platforms.enrolled(connection, PlatformKind.SGX) == {"ab" * 16}


def test_the_owner_sees_the_same_json_byte_for_byte(upgraded: Database, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (
        ("releases", admin.every_release(upgraded)),
        ("log", admin.log(upgraded)),
        ("platforms", admin.every_platform(upgraded)),
        ("status", admin.status(upgraded)),
    ):
        console.print_json(encode(value))
        assert capsys.readouterr().out.replace(upgraded.name, "DATABASE") == (WRITTEN / f"{name}.json").read_text()


def test_an_upgrade_happens_once(path: Path) -> None:
    Database.open(path).close()
    with closing(sqlite3.connect(path)) as opened:
        before = list(opened.iterdump())
    Database.open(path).close()
    with closing(sqlite3.connect(path)) as opened:
        assert list(opened.iterdump()) == before


@pytest.mark.parametrize("change", ["tcb_policy = 'no JSON'", "tcb_policy = x'ff'"])
def test_an_upgrade_that_fails_changes_nothing(path: Path, change: str) -> None:
    with closing(sqlite3.connect(path)) as opened:
        opened.execute(f"UPDATE releases SET {change}")  # noqa: S608  # of this test
        opened.commit()
        before = list(opened.iterdump())
    with raises(
        BrokerCode.DATABASE_CONTENT, match="A row of the table releases in the broker's database has invalid content"
    ):
        Database.open(path)
    with closing(sqlite3.connect(path)) as opened:
        assert list(opened.iterdump()) == before


def test_what_is_allowed_again_after_an_upgrade_is_no_change(upgraded: Database, now: datetime) -> None:
    with upgraded.read() as connection:
        (resnet50, _) = releases.every(connection)
    before = upgraded.snapshot()
    admin.allow(upgraded, resnet50, {"replica-0": _reference(1), "replica-1": _reference(2)}, now=now)
    assert upgraded.snapshot() == before
