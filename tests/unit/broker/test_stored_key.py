"""Stored keys are bound to their wrapper, and no key service is called while a writing transaction is open."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.harness.broker_databases import ONLY_SQLITE
from tests.harness.errors import raises

from sealserve.broker import stored_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError, KeyWrapper, WrapperId
from sealserve.broker.keystore import Keystore, ReleaseKey, open_keystore, rewrap, rotate_master_key
from sealserve.broker.master_key import MasterKey
from sealserve.broker.stored_key import KeyId, StoredKey
from sealserve.broker.tables import KEYS
from sealserve.secret import SecretBytes


class Named:
    """A wrapper with an id. Wrappers of one ``cipher`` have the same key."""

    def __init__(self, name: str, cipher: MasterKey | None = None, during: Callable[[], None] = lambda: None) -> None:
        self._id = WrapperId(name)
        self._cipher = cipher or MasterKey(SecretBytes.random(32))
        self._during = during

    @property
    def wrapper_id(self) -> WrapperId:
        return self._id

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        self._during()
        return self._cipher.wrap(secret, context=context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        self._during()
        return self._cipher.unwrap(wrapped, context=context)


def stored(database: Database) -> list[StoredKey]:
    with database.read() as connection:
        return stored_key.every(connection)


def change(database: Database, **values: Any) -> None:
    with database.write() as connection:
        connection.execute(update(KEYS).values(**values))


def test_the_id_of_the_wrapper_is_authenticated(database: Database, now: datetime) -> None:
    shared = MasterKey(SecretBytes.random(32))  # two ids for one key: the ciphertext alone would decrypt
    first, second = Named("transit:a/k", shared), Named("pkcs11:b/k", shared)
    keystore = Keystore(first, [second])
    made = keystore.create(database, now=now)
    assert keystore.decrypt(stored(database)[0]) == made.key
    for values in (
        {"wrapper": "pkcs11:b/k"},
        {"wrapper": "transit"},
        {"format": 1},
        {"wrapper": "transit", "format": 1},
    ):
        change(database, **{"wrapper": "transit:a/k", "format": 2, **values})
        with pytest.raises(KeyUnwrapError):
            keystore.decrypt(stored(database)[0])


@pytest.mark.parametrize(
    "values", [{"format": 0}, {"format": 4}, {"format": "2x"}, {"wrapped": "text"}, {"wrapper": b""}]
)
def test_a_row_that_sealserve_never_writes_is_refused(now: datetime, tmp_path: Path, values: dict[str, Any]) -> None:
    (name, value), *_ = values.items()
    with Database.open(tmp_path / "own.sqlite") as database:  # SQLite stores values of any type
        made = Keystore(Named("transit:a/k")).create(database, now=now)
        with closing(sqlite3.connect(tmp_path / "own.sqlite")) as other:
            other.execute(f"UPDATE keys SET {name} = ?", (value,))  # noqa: S608  # of this test
            other.commit()
        with database.read() as connection, raises(BrokerCode.DATABASE_CONTENT):
            stored_key.find(connection, made.key_id)


@ONLY_SQLITE
def test_a_hostile_wrapper_id_does_not_reach_the_message_whole(database: Database, now: datetime) -> None:
    keystore = Keystore(Named("transit:a/k"))
    keystore.create(database, now=now)
    change(database, wrapper="\x1b[2J\n" + "x" * 180)
    with raises(
        BrokerCode.KEYSTORE_UNKNOWN_WRAPPER, match=r"configures only transit:a/k\. Restore the database"
    ) as caught:
        keystore.decrypt(stored(database)[0])
    assert len(caught.value.message) < 500
    assert "\x1b" not in caught.value.message


def test_keys_of_an_upgraded_database_still_decrypt(tmp_path: Path, now: datetime) -> None:
    file, service = MasterKey(SecretBytes.random(32)), Named("transit:engine/name")
    secrets = {"0" * 32: SecretBytes.random(16), "1" * 32: SecretBytes.random(16)}
    old = Path(__file__).parent / "schema_2" / "database.sql"
    with closing(sqlite3.connect(tmp_path / "old.sqlite")) as database:
        database.executescript(old.read_text())
        database.execute("DELETE FROM keys WHERE key_id NOT IN (SELECT key_id FROM releases)")
        earlier = {row[0] for row in database.execute("SELECT key_id FROM keys")}
        for (key_id, secret), prefix in zip(secrets.items(), (b"", b"vault:v"), strict=True):
            context = b"sealserve release key v1\0" + key_id.encode()
            wrapped = prefix + (file if not prefix else service).wrap(secret, context=context)
            database.execute("INSERT INTO keys (key_id, wrapped, created) VALUES (?, ?, '')", (key_id, wrapped))
        database.commit()
    with Database.open(tmp_path / "old.sqlite") as upgraded:
        found = {row.key_id: row for row in stored(upgraded)}
        assert earlier < set(found)  # keys that releases refer to
        assert [(found[KeyId(key)].wrapper, found[KeyId(key)].format) for key in secrets] == [
            ("file", 1),
            ("transit", 1),
        ]
        keystore = Keystore(file, [_Prefixed(service)])
        for key_id, secret in secrets.items():
            assert keystore.decrypt(found[KeyId(key_id)]) == secret
        with upgraded.write() as connection:
            connection.execute(KEYS.delete().where(KEYS.c.key_id.in_(secrets)))
        keystore.create(upgraded, now=now)


class _Prefixed(Named):
    """A service whose ciphertexts have the prefix of the transit engine."""

    def __init__(self, service: Named) -> None:
        super().__init__(service.wrapper_id)
        self._service = service

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        return self._service.unwrap(wrapped.removeprefix(b"vault:v"), context=context)


def test_no_service_is_called_while_a_transaction_writes(database: Database, now: datetime) -> None:
    calls: list[int] = []

    def write() -> None:  # it would wait for the other transaction, and fail
        with database.write() as connection:
            connection.execute(update(KEYS).values(created=f"changed {len(calls)}"))
        calls.append(1)

    slow = Named("transit:a/k", during=write)
    keystore = Keystore(slow)
    keystore.create(database, now=now)
    assert rewrap(database, keystore, Named("pkcs11:b/k", during=write)) == 1
    assert len(calls) == 3


def test_a_key_that_is_added_during_a_rotation_is_rotated_too(database: Database, now: datetime) -> None:
    old = Named("transit:a/k")
    added: list[ReleaseKey] = []

    def add() -> None:
        if not added:
            added.append(Keystore(old).create(database, now=now))

    new = Named("pkcs11:b/k", during=add)
    first = Keystore(old).create(database, now=now)
    assert rewrap(database, Keystore(old), new) == 2
    assert {row.wrapper for row in stored(database)} == {"pkcs11:b/k"}
    keys = {row.key_id: Keystore(new).decrypt(row) for row in stored(database)}
    assert keys == {first.key_id: first.key, added[0].key_id: added[0].key}


def test_a_rotation_gives_up_when_keys_change_again_and_again(database: Database, now: datetime) -> None:
    old = Named("transit:a/k")

    def add() -> None:
        Keystore(old).create(database, now=now)

    new = Named("pkcs11:b/k", during=add)
    Keystore(old).create(database, now=now)
    with raises(BrokerCode.KEYSTORE_ROTATING, match="Another process replaced the master key") as caught:
        rewrap(database, Keystore(old), new)
    assert caught.value.code == "keystore.rotating"
    assert {row.wrapper for row in stored(database)} == {"transit:a/k"}


def test_a_key_is_not_stored_under_a_replaced_master_key(database: Database, tmp_path: Path, now: datetime) -> None:
    path = tmp_path / "master.key"
    late = open_keystore(database, path)
    assert rotate_master_key(database, open_keystore(database, path), path) == 0
    with raises(BrokerCode.KEYSTORE_ROTATING):
        late.create(database, now=now)  # no file would decrypt it
    assert stored(database) == []


def test_two_rotations_at_once_lose_no_key(database: Database, tmp_path: Path, now: datetime) -> None:
    path = tmp_path / "master.key"
    made = open_keystore(database, path).create(database, now=now)
    late = open_keystore(database, path)
    # Another process has replaced the keys, but not yet the file.
    beside = path.with_name("master.key.next")
    beside.touch(mode=0o600)
    beside.write_bytes(bytes(range(32)))
    content = beside.read_bytes()
    with raises(BrokerCode.KEYSTORE_ROTATING):
        rotate_master_key(database, late, path)
    assert beside.read_bytes() == content
    assert late.decrypt(stored(database)[0]) == made.key


def test_a_reader_without_a_file_needs_only_the_service(database: Database, tmp_path: Path, now: datetime) -> None:
    service: KeyWrapper = Named("pkcs11:b/k")
    made = open_keystore(database, tmp_path / "master.key", services=[service], current=service).create(
        database, now=now
    )
    reader = open_keystore(database, tmp_path / "master.key", services=[service], create=False)
    assert reader.decrypt(stored(database)[0]) == made.key
    with raises(BrokerCode.KEYSTORE_UNKNOWN_WRAPPER, match="configures only file.*Set pkcs11_module"):
        open_keystore(database, tmp_path / "master.key", create=False)
    assert not (tmp_path / "master.key").exists()
    with database.read() as connection:
        assert connection.execute(select(KEYS.c.wrapper)).scalar_one() == "pkcs11:b/k"
