import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from tests.harness.errors import Expected, raises
from tests.harness.killing import killed_at

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError, WrapperId
from sealserve.broker.keystore import KeyId, Keystore, open_keystore, rewrap, rotate_master_key
from sealserve.broker.master_key import MasterKey, raw, read_master_key, under_passphrase
from sealserve.broker.passphrase import no_passphrase
from sealserve.broker.tables import KEYS
from sealserve.secret import SecretBytes

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.broker.master_key._COST", 2**14)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "master.key"


def given() -> SecretBytes:
    return SecretBytes(PASSPHRASE)


def write(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def test_a_key_under_a_passphrase_comes_back_with_it_only(path: Path) -> None:
    key = SecretBytes.random(32)
    content = under_passphrase(key, given())
    write(path, content)
    assert key.reveal() not in content
    assert key.reveal().hex().encode() not in content
    assert read_master_key(path, passphrase=given) == key
    with raises(
        BrokerCode.KEYSTORE_PASSPHRASE_WRONG,
        match=r"The passphrase does not decrypt the master key in .*master\.key: it is wrong, or the "
        r"file was changed",
    ) as caught:
        read_master_key(path, passphrase=lambda: SecretBytes(PASSPHRASE + b"r"))
    assert caught.value.code == "keystore.passphrase-wrong"
    with raises(
        BrokerCode.KEYSTORE_PASSPHRASE_MISSING,
        match="The master key is encrypted with a passphrase, but no terminal is available to ask for it",
    ) as missing:
        read_master_key(path, passphrase=no_passphrase)
    assert missing.value.code == "keystore.passphrase-missing"
    assert under_passphrase(key, given()) != content  # each call uses a new salt


def test_its_parameters_are_those_that_the_page_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    form = json.loads(under_passphrase(SecretBytes.random(32), given()))
    assert (form["kdf"], form["n"], form["r"], form["p"]) == ("scrypt", 2**17, 8, 1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"n": 2**14 * 2}, BrokerCode.KEYSTORE_PASSPHRASE_WRONG),
        ({"salt": "00" * 16}, BrokerCode.KEYSTORE_PASSPHRASE_WRONG),
        ({"wrapped": "00" * 60}, BrokerCode.KEYSTORE_PASSPHRASE_WRONG),
        ({"n": 2**21}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),  # would require 2 GiB of memory
        ({"n": 2**14 + 1}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),
        ({"n": 2}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),
        ({"r": 1000}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),
        ({"p": 100}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),
        ({"salt": "00"}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),
        ({"kdf": "pbkdf2"}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),
        ({"version": 2}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),
        ({"more": 1}, BrokerCode.KEYSTORE_MASTER_KEY_FORM),
    ],
)
def test_a_changed_file_is_refused(path: Path, change: dict[str, Any], error: Expected) -> None:
    form = json.loads(under_passphrase(SecretBytes.random(32), given()))
    write(path, json.dumps(form | change).encode())
    with raises(error):
        read_master_key(path, passphrase=given)


def test_a_torn_file_is_refused(path: Path) -> None:
    write(path, under_passphrase(SecretBytes.random(32), given())[:100])
    with raises(
        BrokerCode.KEYSTORE_MASTER_KEY_FORM,
        match=r"master\.key does not contain a valid passphrase-encrypted master key: the file is "
        r"damaged",
    ) as caught:
        read_master_key(path, passphrase=given)
    assert caught.value.code == "keystore.master-key-form"


def test_a_file_that_others_can_read_or_that_is_none(path: Path) -> None:
    write(path, bytes(32)).chmod(0o640)
    with raises(
        BrokerCode.KEYSTORE_MASTER_KEY_EXPOSED,
        match=r"Other users can access the master key in .*master\.key: expected mode 0600, got 0640",
    ):
        read_master_key(path, passphrase=given)
    with raises(BrokerCode.KEYSTORE_MASTER_KEY_UNREADABLE):
        read_master_key(path / "below", passphrase=given)


def filled(database: Database, path: Path, now: datetime) -> dict[KeyId, bytes]:
    keystore = open_keystore(database, path)
    made = [keystore.create(database, now=now) for _ in range(3)]
    return {key.key_id: key.key.reveal() for key in made}


def loaded(database: Database, keystore: Keystore, keys: dict[KeyId, bytes]) -> dict[KeyId, bytes]:
    with database.read() as connection:
        return {key_id: keystore.load(connection, key_id).reveal() for key_id in keys}


def test_a_rotation_encrypts_all_keys_again(database: Database, path: Path, now: datetime) -> None:
    keys = filled(database, path, now)
    old = MasterKey(SecretBytes(path.read_bytes()))
    assert rotate_master_key(database, open_keystore(database, path), path) == 3
    assert loaded(database, open_keystore(database, path), keys) == keys
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in path.parent.glob("master.key*")] == ["master.key"]
    with pytest.raises(KeyUnwrapError):
        loaded(database, Keystore(old), keys)
    form = lambda key: under_passphrase(key, given())  # noqa: E731
    rotate_master_key(database, open_keystore(database, path), path, form=form)
    assert loaded(database, open_keystore(database, path, passphrase=given), keys) == keys
    with raises(BrokerCode.KEYSTORE_PASSPHRASE_MISSING):
        open_keystore(database, path)


def test_a_rotation_that_fails_changes_nothing(database: Database, path: Path, now: datetime) -> None:
    keys = filled(database, path, now)
    with database.write() as connection:
        connection.execute(
            insert(KEYS).values(
                key_id="z" * 32, wrapper="file", format=2, wrapped=b"damaged", created="2026-01-01T00:00:00Z"
            )
        )
    with pytest.raises(KeyUnwrapError):
        rotate_master_key(database, open_keystore(database, path), path)
    assert loaded(database, open_keystore(database, path), keys) == keys
    assert [item.name for item in path.parent.glob("master.key*")] == ["master.key"]


def test_killed_at_any_step_of_a_rotation_all_keys_are_there(tmp_path: Path, path: Path, now: datetime) -> None:
    place = tmp_path / "own.sqlite"
    with Database.open(place) as database:
        keys = filled(database, path, now)

    def work() -> None:
        with Database.open(place) as database:
            rotate_master_key(database, open_keystore(database, path), path)

    step = 0
    left = set()
    while killed_at(step, work):
        left.add((path.with_name("master.key.next")).exists())
        with Database.open(place) as database:
            assert loaded(database, open_keystore(database, path), keys) == keys
        assert not path.with_name("master.key.next").exists()
        step += 1
    assert step > 5
    assert left == {False, True}


def interrupted(database: Database, path: Path, *, form: Callable[[SecretBytes], bytes] = raw) -> None:
    """Rotate the master key, but leave its file as it was."""

    def stop(*_: Path) -> None:
        raise OSError("the power failed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sealserve.broker.keystore.move_content", stop)
        with pytest.raises(OSError, match="the power failed"):
            rotate_master_key(database, open_keystore(database, path, passphrase=given), path, form=form)


def encrypted(key: SecretBytes) -> bytes:
    return under_passphrase(key, given())


@pytest.mark.parametrize("torn", [b"", b"x", b'{"version":1', bytes(31), bytes(32), bytes(33)])
@pytest.mark.parametrize("form", [raw, encrypted])
def test_a_torn_replacement_of_the_file_is_completed(
    database: Database, path: Path, now: datetime, torn: bytes, form: Callable[[SecretBytes], bytes]
) -> None:
    """A power failure can leave any mixture of the former and the new content."""
    keys = filled(database, path, now)
    interrupted(database, path, form=form)
    write(path, torn)
    assert loaded(database, open_keystore(database, path, passphrase=given), keys) == keys
    assert not path.with_name("master.key.next").exists()


def test_a_wrong_passphrase_does_not_complete_a_rotation(database: Database, path: Path, now: datetime) -> None:
    keys = filled(database, path, now)
    rotate_master_key(database, open_keystore(database, path), path, form=encrypted)
    interrupted(database, path, form=encrypted)
    with raises(BrokerCode.KEYSTORE_PASSPHRASE_WRONG):
        open_keystore(database, path, passphrase=lambda: SecretBytes(b"a wrong passphrase"))
    assert path.with_name("master.key.next").exists()
    assert loaded(database, open_keystore(database, path, passphrase=given), keys) == keys


class Service:
    """A key management service in memory."""

    def __init__(self) -> None:
        self._key = MasterKey(SecretBytes.random(32))

    @property
    def wrapper_id(self) -> WrapperId:
        return WrapperId("transit:transit/sealserve")

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        return b"vault:v1:" + self._key.wrap(secret, context=context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        return self._key.unwrap(wrapped.removeprefix(b"vault:v1:"), context=context)


def test_keys_move_to_a_service_and_back(database: Database, path: Path, now: datetime) -> None:
    keys = filled(database, path, now)
    service = Service()
    both = open_keystore(database, path, services=[service], current=service)
    assert loaded(database, both, keys) == keys  # the file still decrypts the earlier keys
    made = both.create(database, now=now)
    keys[made.key_id] = made.key.reveal()
    with raises(
        BrokerCode.KEYSTORE_UNKNOWN_WRAPPER,
        match=r"The key [0-9a-f]{32} cannot be decrypted: 'transit:transit/sealserve' encrypted it, but "
        r"sealserve\.toml configures only file\. Set transit_url, transit_mount",
    ):
        loaded(database, open_keystore(database, path), keys)
    assert rewrap(database, both, service) == 4
    path.unlink()
    alone = open_keystore(database, path, services=[service], current=service)
    assert loaded(database, alone, keys) == keys
    assert not path.exists()  # no key requires the file
    with database.read() as connection:
        assert all(found.startswith(b"vault:v1:") for found in connection.execute(select(KEYS.c.wrapped)).scalars())
    back = open_keystore(database, path, services=[service])
    assert rotate_master_key(database, back, path) == 4
    assert loaded(database, open_keystore(database, path), keys) == keys
