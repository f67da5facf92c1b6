import base64
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.harness.errors import raises

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError
from sealserve.broker.keystore import KeyId, ReleaseKey, open_keystore
from sealserve.broker.tables import KEYS


@pytest.fixture
def master_key(tmp_path: Path) -> Path:
    return tmp_path / "master.key"


def _create(database: Database, master_key: Path, now: datetime) -> ReleaseKey:
    return open_keystore(database, master_key).create(database, now=now)


def _load(database: Database, master_key: Path, key_id: KeyId) -> bytes:
    keystore = open_keystore(database, master_key)
    with database.read() as connection:
        return keystore.load(connection, key_id).reveal()


def test_a_key_comes_back_and_its_file_is_private(database: Database, master_key: Path, now: datetime) -> None:
    made = _create(database, master_key, now)
    assert len(made.key) == 16
    assert len(bytes.fromhex(made.key_id)) == 16
    assert _load(database, master_key, made.key_id) == made.key.reveal()
    assert master_key.stat().st_mode & 0o777 == 0o600
    assert len(master_key.read_bytes()) == 32


def test_keys_and_ids_differ(database: Database, master_key: Path, now: datetime) -> None:
    made = [_create(database, master_key, now) for _ in range(4)]
    assert len({key.key_id for key in made} | {key.key.reveal().hex() for key in made}) == 8


def test_no_file_and_no_representation_shows_a_key(
    database: Database, master_key: Path, now: datetime, tmp_path: Path
) -> None:
    made = _create(database, master_key, now)
    value = made.key.reveal()
    shown = repr(made).encode() + b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for form in (value, value.hex().encode(), base64.b64encode(value).rstrip(b"="), repr(value).encode()):
        assert form not in shown


def test_an_unknown_key_is_refused(database: Database, master_key: Path) -> None:
    with raises(BrokerCode.KEYSTORE_UNKNOWN_KEY, match=r"The keystore does not contain the key [0-9a-f]{32}") as caught:
        _load(database, master_key, KeyId("00" * 16))
    assert caught.value.code == "keystore.unknown-key"


def test_a_key_that_no_release_names_can_be_discarded(stage: Any) -> None:
    spare = stage.keystore.create(stage.database, now=stage.now)
    with stage.database.write() as connection:
        stage.keystore.discard(connection, spare.key_id)
        with raises(BrokerCode.KEYSTORE_UNKNOWN_KEY):
            stage.keystore.load(connection, spare.key_id)
        with raises(
            BrokerCode.KEYSTORE_KEY_IN_USE,
            match=f"The key {stage.made.key_id} cannot be deleted: the release resnet50 uses it",
        ) as caught:
            stage.keystore.discard(connection, stage.made.key_id)
        assert caught.value.code == "keystore.key-in-use"
        assert stage.keystore.load(connection, stage.made.key_id) == stage.made.key


def test_a_key_in_another_ones_place_does_not_decrypt(database: Database, master_key: Path, now: datetime) -> None:
    first, second = (_create(database, master_key, now) for _ in range(2))
    with database.write() as connection:
        wrapped = connection.execute(select(KEYS.c.wrapped).where(KEYS.c.key_id == first.key_id)).scalar_one()
        connection.execute(update(KEYS).where(KEYS.c.key_id == second.key_id).values(wrapped=wrapped))
    with pytest.raises(
        KeyUnwrapError,
        match="A stored release key cannot be decrypted: the master key is wrong, or the stored key was changed",
    ) as caught:
        _load(database, master_key, second.key_id)
    assert caught.value.code == "keystore.unwrap"


@pytest.mark.parametrize("damage", [b"", b"short", bytes(44)])
def test_a_damaged_key_does_not_decrypt(database: Database, master_key: Path, now: datetime, damage: bytes) -> None:
    made = _create(database, master_key, now)
    with database.write() as connection:
        connection.execute(update(KEYS).values(wrapped=damage))
    with pytest.raises(
        KeyUnwrapError,
        match="A stored release key cannot be decrypted: the master key is wrong, or the stored key was changed",
    ):
        _load(database, master_key, made.key_id)


def test_another_master_key_does_not_decrypt(database: Database, master_key: Path, now: datetime) -> None:
    made = _create(database, master_key, now)
    master_key.write_bytes(bytes(range(32)))
    with pytest.raises(
        KeyUnwrapError,
        match="A stored release key cannot be decrypted: the master key is wrong, or the stored key was changed",
    ):
        _load(database, master_key, made.key_id)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_master_key_that_others_can_use_is_refused(database: Database, master_key: Path, mode: int) -> None:
    open_keystore(database, master_key)
    master_key.chmod(mode)
    with raises(
        BrokerCode.KEYSTORE_MASTER_KEY_EXPOSED, match=rf"expected mode 0600, got {mode:04o}.*chmod 600"
    ) as caught:
        open_keystore(database, master_key)
    assert caught.value.code == "keystore.master-key-exposed"


@pytest.mark.parametrize(("length", "found"), [(0, "0"), (16, "16"), (33, "more")])
def test_a_master_key_of_another_length_is_refused(
    database: Database, master_key: Path, length: int, found: str
) -> None:
    master_key.touch(mode=0o600)
    master_key.write_bytes(bytes(length))
    with raises(BrokerCode.KEYSTORE_MASTER_KEY_LENGTH, match=f"expected 32 bytes, got {found}") as caught:
        open_keystore(database, master_key)
    assert caught.value.code == "keystore.master-key-length"


def test_a_lost_master_key_is_not_replaced(database: Database, master_key: Path, now: datetime) -> None:
    _create(database, master_key, now)
    master_key.unlink()
    with raises(
        BrokerCode.KEYSTORE_MASTER_KEY_MISSING,
        match=r"The master key file .*master\.key does not exist, but 1 stored key is encrypted with "
        r"it",
    ) as caught:
        open_keystore(database, master_key)
    assert caught.value.code == "keystore.master-key-missing"
    assert not master_key.exists()


def test_a_master_key_that_cannot_be_read_is_one_clear_error(database: Database, master_key: Path) -> None:
    master_key.mkdir()
    with raises(
        BrokerCode.KEYSTORE_MASTER_KEY_UNREADABLE, match=r"master\.key cannot be read: Is a directory"
    ) as caught:
        open_keystore(database, master_key)
    assert caught.value.code == "keystore.master-key-unreadable"
