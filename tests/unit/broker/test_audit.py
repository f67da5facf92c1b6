import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, update
from tests.harness.errors import raises

from sealserve.broker import admin, audit
from sealserve.broker.audit import GENESIS, Decision, Entry, Head, verify_chain
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import AUDIT, AUDIT_HEADS, Database, to_text


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


@pytest.mark.parametrize(
    "change",
    [
        {"code": "ok"},
        {"decision": "released"},
        {"detail": ""},
        {"time": "2026-01-01T00:00:00.000000+00:00"},
        {"mr_enclave": None},
        {"release_id": "00" * 32},
        {"hash": "00" * 32},
        {"quote_digest": b"bytes"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_row_is_found(database: Database, now: datetime, change: dict[str, Any]) -> None:
    _fill(database, now)
    _change(database, 3, **change)
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN, match=r"[Rr]ow 3") as caught:
        verify_chain(connection)
    assert caught.value.code == "audit.chain"


def test_a_removed_row_is_found(database: Database, now: datetime) -> None:
    _fill(database, now)
    with database.write() as connection:
        connection.execute(delete(AUDIT).where(AUDIT.c.seq == 2))
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN, match="row 3 does not follow row 1"):
        verify_chain(connection)


def test_a_row_that_is_no_row_any_more_is_found_when_it_is_shown(database: Database, now: datetime) -> None:
    _fill(database, now)
    _change(database, 3, decision="nonsense")
    with (
        database.read() as connection,
        raises(BrokerCode.AUDIT_CHAIN, match="A row of the audit log was changed: its time or its decision is invalid"),
    ):
        list(audit.rows(connection))


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


@pytest.mark.parametrize(
    "change",
    [{"time": 7}, {"peer": None}, {"detail": b"bytes"}, {"mr_enclave": b"x"}, {"release_id": b""}, {"code": b"ok"}],
    ids=str,
)  # fmt: skip
def test_a_row_of_other_types_is_one_clear_error(database: Database, now: datetime, change: dict[str, Any]) -> None:
    _fill(database, now)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE copied AS SELECT * FROM audit")  # without types and constraints
        connection.exec_driver_sql("DROP TABLE audit")
        connection.exec_driver_sql("ALTER TABLE copied RENAME TO audit")
        ((name, value),) = change.items()
        connection.exec_driver_sql(f"UPDATE audit SET {name} = ? WHERE seq = 3", (value,))  # noqa: S608  # a column
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN):
        list(audit.rows(connection))
    with database.read() as connection, raises(BrokerCode.AUDIT_CHAIN):
        verify_chain(connection)


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
