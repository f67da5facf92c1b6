import hashlib
import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import JsonValue
from sqlalchemy import delete, select, update
from tests.harness.broker_databases import ONLY_SQLITE
from tests.harness.errors import raises

from sealserve.broker import admin, audit
from sealserve.broker.audit import Head, verify_chain
from sealserve.broker.audit_entry import GENESIS, Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.stored_time import to_text
from sealserve.broker.tables import AUDIT, AUDIT_HEADS


def _fill(database: Database, now: datetime, count: int = 5) -> None:
    for number in range(count):
        with database.write() as connection:
            entry = Entry(time=now + timedelta(seconds=number), peer=f"127.0.0.1:{number}", decision=Decision.REFUSED,
                          code="policy.debug", detail="The enclave runs with DEBUG.", mr_enclave="ab" * 32)  # fmt: skip
            audit.append(connection, entry)


def _change(database: Database, seq: int, **values: Any) -> None:
    with database.write() as connection:
        connection.execute(update(AUDIT).where(AUDIT.c.seq == seq).values(values))


def test_rows_are_chained_and_verify(database: Database, now: datetime) -> None:
    with database.read() as connection:
        assert verify_chain(connection) == (0, GENESIS)
    _fill(database, now)
    with database.read() as connection:
        rows = list(audit.rows(connection))
        assert [row.seq for row in rows] == [1, 2, 3, 4, 5]
        assert [row.previous_hash for row in rows] == [GENESIS, *(row.hash for row in rows[:-1])]
        assert verify_chain(connection) == (5, rows[-1].hash)
        assert [row.seq for row in audit.rows(connection, last=2)] == [4, 5]
        assert list(audit.rows(connection, last=0)) == []
    assert rows[0].entry.peer == "127.0.0.1:0"
    assert rows[0].entry.time == now


def _content(database: Database, seq: int) -> dict[str, Any]:
    with database.read() as connection:
        stored = connection.execute(select(AUDIT.c.content).where(AUDIT.c.seq == seq)).scalar()
    found: dict[str, Any] = json.loads(stored or b"")
    return found


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"code": "ok"},
        {"decision": "released"},
        {"time": "2026-01-01T00:00:00.000000+00:00"},
        {"release_id": "00" * 32},
        {"platform_id": ""},
        {"hash": "00" * 32},
        {"hash": 7},
        {"format": 1},
        {"format": 3},
        {"format": -1},
        {"content": b""},
        {"content": b"{}"},
    ],
    ids=str,
)
def test_a_changed_column_is_found(database: Database, now: datetime, change: dict[str, Any]) -> None:
    _fill(database, now)
    _change(database, 3, **change)
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN, match=r"[Rr]ow 3") as caught:
        verify_chain(connection)
    assert caught.value.code == "audit.chain"


@pytest.mark.parametrize(
    "change",
    [{"code": "ok"}, {"detail": ""}, {"mr_enclave": "cd" * 32}, {"peer": "x"}, {"seq": 4}, {"later": "field"}],
    ids=str,
)
def test_changed_content_is_found(database: Database, now: datetime, change: dict[str, Any]) -> None:
    _fill(database, now)
    _change(database, 3, content=_canonical(_content(database, 3) | change))
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN, match="Row 3 .*hash does not match"):
        verify_chain(connection)


def test_a_row_at_another_place_is_found_although_its_hash_is_right(database: Database, now: datetime) -> None:
    _fill(database, now)
    with database.write() as connection:
        second, third = connection.execute(
            select(AUDIT).where(AUDIT.c.seq.in_([2, 3])).order_by(AUDIT.c.seq)
        ).mappings()
        for seq, row in ((2, third), (3, second)):
            values = {name: value for name, value in row.items() if name != "seq"}
            connection.execute(update(AUDIT).where(AUDIT.c.seq == seq).values(values))
    with (
        database.read() as connection,
        raises(BrokerCode.AUDIT_CHAIN, match="Row 2 .*does not follow"),
    ):
        verify_chain(connection)


def test_the_hash_covers_the_stored_bytes_and_not_the_fields_of_a_class(database: Database, now: datetime) -> None:
    """A later version may add fields: this version still verifies and shows the row."""
    _fill(database, now, 2)
    content = _canonical(_content(database, 2) | {"added": {"later": [1]}, "mr_enclave": "cd" * 32})
    _change(database, 2, content=content, hash=hashlib.sha256(b"sealserve audit row v2\n" + content).hexdigest())
    with database.read() as connection:
        assert verify_chain(connection)[0] == 2
        assert list(audit.rows(connection))[1].entry.mr_enclave == "cd" * 32


def test_the_content_is_canonical_and_has_no_empty_field(database: Database, now: datetime) -> None:
    claims: dict[str, JsonValue] = {"fmspc": "00906ED50000", "tcb_evaluation": 17, "svn": [1, 2]}
    with database.write() as connection:
        row = audit.append(
            connection,
            Entry(
                time=now, peer="owner", decision=Decision.REVOKED, code="ok", detail="é", actor="alice", claims=claims
            ),
        )
        stored = connection.execute(select(AUDIT.c.content)).scalar()
    assert stored == (
        b'{"actor":"alice","claims":{"fmspc":"00906ED50000","svn":[1,2],"tcb_evaluation":17},"code":"ok",'
        b'"decision":"revoked","detail":"\\u00e9","peer":"owner","previous_hash":"' + b"0" * 64 + b'","seq":1,'
        b'"time":"' + to_text(now).encode() + b'"}'
    )
    assert row.entry.claims == claims
    with database.read() as connection:
        assert [found.entry for found in audit.rows(connection)] == [row.entry]


def test_a_removed_row_is_found(database: Database, now: datetime) -> None:
    _fill(database, now)
    with database.write() as connection:
        connection.execute(delete(AUDIT).where(AUDIT.c.seq == 2))
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN, match="row 3 does not follow row 1"):
        verify_chain(connection)


def test_rows_cut_off_at_the_end_are_found_by_a_signed_head(database: Database, now: datetime) -> None:
    signer = Ed25519PrivateKey.generate()
    _fill(database, now)
    with database.write() as connection:
        head = audit.sign_head(connection, signer, now=now)
        assert audit.sign_head(connection, signer, now=now + timedelta(days=1)) == head
    with database.read() as connection:
        assert verify_chain(connection, signer.public_key(), kept=(head,)) == (5, head.hash)
    with database.write() as connection:
        connection.execute(delete(AUDIT).where(AUDIT.c.seq > 3))
    with database.read() as connection:
        assert verify_chain(connection)[0] == 3  # without a key, the truncation is not detected
        with raises(
            BrokerCode.AUDIT_TRUNCATED,
            match="The audit log is truncated: it ends at row 3, but a head was signed at row 5",
        ) as caught:
            verify_chain(connection, signer.public_key())
    assert caught.value.code == "audit.truncated"
    with database.write() as connection:
        connection.execute(delete(AUDIT_HEADS))
    with database.read() as connection, raises(BrokerCode.AUDIT_TRUNCATED, match="a head was signed at row 5"):
        verify_chain(connection, signer.public_key(), kept=(head,))


def test_a_rewritten_end_is_found_by_a_signed_head(database: Database, now: datetime) -> None:
    signer = Ed25519PrivateKey.generate()
    _fill(database, now)
    with database.write() as connection:
        audit.sign_head(connection, signer, now=now)
        connection.execute(delete(AUDIT).where(AUDIT.c.seq > 3))
    _fill(database, now + timedelta(days=1), 4)
    with database.read() as connection:
        assert verify_chain(connection)[0] == 7
        with raises(
            BrokerCode.AUDIT_TRUNCATED,
            match="Row 5 of the audit log was replaced: its hash differs from the signed head of that row",
        ):
            verify_chain(connection, signer.public_key())


def test_a_head_by_another_key_is_refused(database: Database, now: datetime) -> None:
    _fill(database, now)
    with database.write() as connection:
        head = audit.sign_head(connection, Ed25519PrivateKey.generate(), now=now)
    owner = Ed25519PrivateKey.generate().public_key()
    with (
        database.read() as connection,
        raises(
            BrokerCode.AUDIT_HEAD_SIGNATURE,
            match="row 5 is invalid: its signature does not verify with the owner's key",
        ) as caught,
    ):
        verify_chain(connection, owner)
    assert caught.value.code == "audit.head-signature"
    with raises(BrokerCode.AUDIT_HEAD_SIGNATURE), database.read() as connection:
        verify_chain(connection, owner, kept=(replace(head, seq=4),))


def test_a_head_speaks_of_its_row_only(database: Database, now: datetime) -> None:
    signer = Ed25519PrivateKey.generate()
    _fill(database, now)
    with database.write() as connection:
        head = audit.sign_head(connection, signer, now=now)
    for moved in (replace(head, seq=4), replace(head, hash="00" * 32), replace(head, time=now + timedelta(days=1))):
        kept: tuple[Head, ...] = (moved,)
        with database.read() as connection, raises(BrokerCode.AUDIT_HEAD_SIGNATURE):
            verify_chain(connection, signer.public_key(), kept=kept)


def test_text_of_a_peer_is_cleaned_and_bounded(database: Database, now: datetime) -> None:
    hostile = "line\nbreak\x1b[31m red \ud800 \u202e" + "x" * 5000
    with database.write() as connection:
        entry = Entry(time=now, peer="p", decision=Decision.REFUSED, code="ra-tls.certificate", detail=hostile)
        row = audit.append(connection, entry)
    assert row.entry.detail.startswith("line\ufffdbreak\ufffd[31m red \ufffd \ufffd")
    assert len(row.entry.detail) == 1000
    with database.read() as connection:
        assert verify_chain(connection) == (1, row.hash)


def test_concurrent_rows_make_one_chain(database: Database, now: datetime) -> None:
    threads = [threading.Thread(target=_fill, args=(database, now, 8)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert verify_chain(connection)[0] == 48


BROKEN_HEADS: list[dict[str, Any]] = [
    {"time": "yesterday"}, {"time": None}, {"time": 7}, {"time": "2026-11-23T12:00:00"},
    {"time": "0001-01-01T00:00:00+14:00"}, {"time": b"bytes"}, {"signature": "not hex"}, {"signature": None},
    {"signature": 1.5}, {"signature": b"bytes"}, {"hash": None}, {"hash": "AB" * 32}, {"hash": 7}, {"hash": b"x"},
    {"seq": "five"}, {"seq": None}, {"seq": 5.5}, {"seq": -1},
]  # fmt: skip


@ONLY_SQLITE
@pytest.mark.parametrize("change", BROKEN_HEADS, ids=str)
def test_a_stored_head_that_is_none_is_one_clear_error(
    database: Database, now: datetime, change: dict[str, Any]
) -> None:
    signer = Ed25519PrivateKey.generate()
    _fill(database, now)
    with database.write() as connection:
        head = audit.sign_head(connection, signer, now=now)
        row = {
            "seq": head.seq,
            "hash": head.hash,
            "time": to_text(head.time),
            "signature": head.signature.hex(),
        } | change
        connection.exec_driver_sql("DROP TABLE audit_heads")  # an attacker with write access can also change the schema
        connection.exec_driver_sql("CREATE TABLE audit_heads (seq, hash, time, signature)")
        connection.exec_driver_sql(
            "INSERT INTO audit_heads VALUES (?, ?, ?, ?)",
            tuple(row[name] for name in ("seq", "hash", "time", "signature")),
        )
    with (
        database.read() as connection,
        raises(
            BrokerCode.AUDIT_HEAD_SIGNATURE,
            match=r"The audit head at row .* was changed: its content is not a valid signed head",
        ) as caught,
    ):
        verify_chain(connection, signer.public_key())
    assert caught.value.code == "audit.head-signature"
    assert caught.value.exit_status == 3


def test_a_kept_head_needs_a_key(database: Database, now: datetime) -> None:
    _fill(database, now)
    with database.write() as connection:
        head = audit.sign_head(connection, Ed25519PrivateKey.generate(), now=now)
    with (
        database.read() as connection,
        raises(
            BrokerCode.AUDIT_HEAD_SIGNATURE,
            match="The given audit head cannot be verified: the public key for its signature is missing",
        ),
    ):
        verify_chain(connection, kept=(head,))
    with raises(
        BrokerCode.AUDIT_HEAD_SIGNATURE,
        match="The given audit head cannot be verified: the public key for its signature is missing",
    ):
        admin.verify_log(database, None, kept=(head,))


@pytest.mark.parametrize("change", [{"time": "x"}, {"signature": "zz"}, {"hash": "x"}, {"seq": "1"}], ids=str)
def test_a_kept_head_that_is_none_is_one_clear_error(database: Database, now: datetime, change: dict[str, Any]) -> None:
    signer = Ed25519PrivateKey.generate()
    head = admin.sign_log(database, signer, now=now)
    parts = {"seq": head.seq, "hash": head.hash, "time": head.time.isoformat(), "signature": head.signature.hex()}
    assert audit.parse_head(*parts.values()) == head
    with raises(BrokerCode.AUDIT_HEAD_SIGNATURE):
        audit.parse_head(*(parts | change).values())


BROKEN_CONTENTS: list[Any] = [
    b"", b"[]", b"{", b"\xff", b"null", "text", None, 7, b"1" * 70_000, b'{"seq":3,"seq":3}', b"[" * 50_000,
    {"time": 7}, {"time": None}, {"time": "yesterday"}, {"peer": None}, {"detail": 5}, {"mr_enclave": ["x"]},
    {"release_id": {}}, {"code": True}, {"decision": "nonsense"}, {"decision": None}, {"claims": "text"},
    {"claims": []}, {"seq": "3"}, {"seq": True}, {"seq": None}, {"previous_hash": 7}, {"actor": 1},
]  # fmt: skip


@ONLY_SQLITE
@pytest.mark.parametrize("change", BROKEN_CONTENTS, ids=lambda change: str(change)[:30])
def test_a_row_that_is_not_a_row_is_one_clear_error(database: Database, now: datetime, change: Any) -> None:
    _fill(database, now)
    content = _canonical(_content(database, 3) | change) if isinstance(change, dict) else change
    hashed = hashlib.sha256(b"sealserve audit row v2\n" + content).hexdigest() if isinstance(content, bytes) else "0"
    with database.write() as connection:  # an attacker with write access can also change the schema
        connection.exec_driver_sql("CREATE TABLE copied AS SELECT * FROM audit")  # without types and constraints
        connection.exec_driver_sql("DROP TABLE audit")
        connection.exec_driver_sql("ALTER TABLE copied RENAME TO audit")
        connection.exec_driver_sql("UPDATE audit SET content = ?, hash = ? WHERE seq = 3", (content, hashed))
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN, match="Row 3"):
        list(audit.rows(connection))
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN, match="Row 3"):
        verify_chain(connection)


@ONLY_SQLITE
@pytest.mark.parametrize("change", [{"seq": "last"}, {"hash": 7}, {"hash": "short"}], ids=str)
def test_a_last_row_that_is_none_is_one_clear_error(database: Database, now: datetime, change: dict[str, Any]) -> None:
    _fill(database, now)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE copied AS SELECT * FROM audit")
        connection.exec_driver_sql("DROP TABLE audit")
        connection.exec_driver_sql("ALTER TABLE copied RENAME TO audit")
        ((name, value),) = change.items()
        connection.exec_driver_sql(f"UPDATE audit SET {name} = ? WHERE seq = 5", (value,))  # noqa: S608  # a column
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN):
        audit.head(connection)


def test_heads_by_a_former_key_verify(database: Database, now: datetime) -> None:
    former, present = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    _fill(database, now)
    with database.write() as connection:
        audit.sign_head(connection, former, now=now)
    _fill(database, now)
    with database.write() as connection:
        audit.sign_head(connection, present, now=now)
    with database.read() as connection:
        keys = [former.public_key()]
        assert verify_chain(connection, present.public_key(), former_keys=keys)[0] == 10
        with raises(BrokerCode.AUDIT_HEAD_SIGNATURE):
            verify_chain(connection, present.public_key())
