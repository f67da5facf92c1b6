import fcntl
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.errors import raises

from sealserve.broker import audit, head_file
from sealserve.broker.audit import Head
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.head_file import head_json, keep_head, kept_head, read_head
from sealserve.regular_file import InputFileKindError

WRITTEN = {"seq": 3, "hash": "ab" * 32, "time": "2026-11-23T12:00:00.000001+00:00", "signature": "cd" * 64}
HEAD = Head(
    seq=3, hash="ab" * 32, time=datetime(2026, 11, 23, 12, 0, 0, 1, tzinfo=UTC), signature=bytes.fromhex("cd" * 64)
)


def test_a_head_comes_back() -> None:
    assert read_head(json.dumps(WRITTEN).encode(), name="head.json") == HEAD
    assert head_json(HEAD) == (json.dumps(WRITTEN) + "\n").encode()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"seq": "3"}, "seq"),
        ({"seq": -1}, "seq"),
        ({"hash": "AB" * 32}, "hash"),
        ({"time": "2026-11-23T12:00:00"}, "time"),
        ({"time": "yesterday"}, "time"),
        ({"signature": "cd"}, "signature"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_head_is_refused(changes: dict[str, Any], where: str) -> None:
    content = json.dumps(WRITTEN | changes).encode()
    with raises(
        BrokerCode.AUDIT_HEAD_FILE, match=f"h.json does not contain a signed head of an audit log: {where}: "
    ) as caught:
        read_head(content, name="h.json")
    assert caught.value.code == "audit.head-file"
    with raises(BrokerCode.AUDIT_HEAD_FILE, match="the file: Invalid JSON"):
        read_head(b"", name="h.json")


def _append(database: Database, now: datetime, count: int) -> None:
    for _ in range(count):
        with database.write() as connection:
            audit.append(connection, Entry(time=now, peer="p", decision=Decision.REFUSED, code="x"))


def _sign(database: Database, signer: Ed25519PrivateKey, now: datetime) -> Head:
    with database.write() as connection:
        return audit.sign_head(connection, signer, now=now)


def test_the_newest_head_is_kept(database: Database, now: datetime, tmp_path: Path) -> None:
    path, signer = tmp_path / "head.json", Ed25519PrivateKey.generate()
    assert kept_head(path) is None
    _append(database, now, 2)
    first = _sign(database, signer, now)
    keep_head(path, database, first)
    assert kept_head(path) == first
    _append(database, now, 1)
    second = _sign(database, signer, now)
    keep_head(path, database, second)
    keep_head(path, database, first)  # an older head from a slower process
    assert kept_head(path) == second


def test_evidence_of_deleted_rows_is_not_overwritten(database: Database, now: datetime, tmp_path: Path) -> None:
    path, signer = tmp_path / "head.json", Ed25519PrivateKey.generate()
    _append(database, now, 2)
    keep_head(path, database, _sign(database, signer, now))
    kept = path.read_bytes()
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit")
        connection.exec_driver_sql("DELETE FROM audit_heads")
    with raises(BrokerCode.AUDIT_TRUNCATED, match="Row 2 of the audit log is missing"):
        keep_head(path, database, _sign(database, signer, now))
    _append(database, now + timedelta(days=1), 5)
    with raises(
        BrokerCode.AUDIT_TRUNCATED,
        match="Row 2 of the audit log was replaced, although a signed head outside the database covers it",
    ):
        keep_head(path, database, _sign(database, signer, now))
    assert path.read_bytes() == kept


def test_what_stands_in_the_place_of_the_kept_head_is_neither_read_nor_replaced(
    database: Database, now: datetime, tmp_path: Path
) -> None:
    path, victim = tmp_path / "head.json", tmp_path / "victim"
    _append(database, now, 1)
    head = _sign(database, Ed25519PrivateKey.generate(), now)
    victim.write_text("{}")
    path.symlink_to(victim)
    with pytest.raises(InputFileKindError):
        keep_head(path, database, head)
    path.unlink()
    path.write_text("{}")
    with raises(
        BrokerCode.AUDIT_HEAD_FILE,
        match=r"head\.json does not contain a signed head of an audit log: seq: Field required",
    ):
        keep_head(path, database, head)
    assert (victim.read_text(), path.read_text()) == ("{}", "{}")


def test_two_processes_cannot_store_heads_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_file, "_LOCK_SECONDS", 0.02)
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            raises(BrokerCode.AUDIT_HEAD_BUSY, match=r"another process has locked .* for more than 0\.02 s"),
            head_file._alone(tmp_path),
        ):
            pytest.fail("the lock was taken twice")
    finally:
        os.close(other)
    with head_file._alone(tmp_path):
        pass
