"""The keystore of a broker that runs while another process rotates the master key."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.broker import keystore as broker_keystore
from sealserve.broker import stored_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.current_keystore import CurrentKeystore
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError
from sealserve.broker.keystore import ReleaseKey
from sealserve.broker.passphrase import ASK_PASSPHRASE
from sealserve.owner import master_key, vault
from sealserve.owner.owner import Owner
from sealserve.secret import SecretBytes


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.broker.master_key._COST", 2**14)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site")


@contextmanager
def running(site: Site) -> Iterator[tuple[Database, CurrentKeystore]]:
    with Owner.open(site.workspace).database(create=True) as database, vault.current(site.workspace, database) as found:
        yield database, found


def create(site: Site) -> ReleaseKey:
    with Owner.open(site.workspace).vault(create=True) as opened:
        return opened.keystore.create(opened.database, now=site.now)


def load(database: Database, keystore: CurrentKeystore, made: ReleaseKey) -> bytes:
    with database.read() as connection:
        stored = stored_key.find(connection, made.key_id)
    with keystore.decrypt(stored) as key:
        return key.reveal()


def test_a_rotation_is_noticed_by_the_first_request(site: Site) -> None:
    made = create(site)
    with running(site) as (database, keystore):
        for _ in range(4):  # more rotations than keystores that stay open
            master_key.rotate(site.workspace)
            assert load(database, keystore, made) == made.key.reveal()


def test_a_rotation_is_noticed_without_a_request(site: Site) -> None:
    made = create(site)
    with running(site) as (database, keystore):
        before = keystore.value
        master_key.rotate(site.workspace)
        keystore.poll()
        keystore.poll()
        assert keystore.value is not before
        assert load(database, keystore, made) == made.key.reveal()


def test_a_request_between_the_two_steps_of_a_rotation_gets_its_key(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(site)
    found: list[bytes] = []
    with running(site) as (database, keystore):
        rewrap = broker_keystore.rewrap

        def then_ask(*arguments: Any, **settings: Any) -> int:
            count = rewrap(*arguments, **settings)
            found.append(load(database, keystore, made))  # the database is rotated, the file is not
            return count

        monkeypatch.setattr(broker_keystore, "rewrap", then_ask)
        master_key.rotate(site.workspace)
        assert found == [made.key.reveal()]
        assert load(database, keystore, made) == made.key.reveal()


def test_a_changed_row_causes_no_further_work(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made, other = create(site), create(site)
    with running(site) as (database, keystore):
        with database.write() as connection:
            connection.exec_driver_sql(
                "UPDATE keys SET wrapped = (SELECT wrapped FROM keys WHERE key_id = ?) WHERE key_id = ?",
                (other.key_id, made.key_id),
            )
        monkeypatch.setattr(keystore, "_reload", lambda **_: pytest.fail("the keystore was opened again"))
        with pytest.raises(KeyUnwrapError, match="cannot be decrypted"):
            load(database, keystore, made)


def test_a_lost_master_key_is_not_created_again(site: Site) -> None:
    made = create(site)
    path = site.workspace.owner.master_key
    with running(site) as (database, keystore):
        path.unlink()
        assert not keystore.reload()
        assert not path.exists()
        assert load(database, keystore, made) == made.key.reveal()


def test_a_passphrase_is_read_again_from_its_file_and_never_asked_for(site: Site, tmp_path: Path) -> None:
    made = create(site)
    file = tmp_path / "passphrase"
    file.touch(mode=0o600)
    file.write_text("correct horse battery staple")
    asked: list[str] = []

    def ask() -> SecretBytes:
        asked.append("passphrase")
        return SecretBytes(b"correct horse battery staple")

    token = ASK_PASSPHRASE.set(ask)
    try:
        master_key.rotate(site.workspace, new_passphrase=ask)
        with running(site) as (database, keystore):
            assert asked == ["passphrase"] * 2  # for the rotation, and at the start
            master_key.rotate(site.workspace)
            asked.clear()
            with pytest.raises(KeyUnwrapError):
                load(database, keystore, made)
            assert asked == []
            assert keystore.problem is not None
            with raises(BrokerCode.KEYSTORE_PASSPHRASE_MISSING):
                raise keystore.problem
            # The owner names a file, and the broker goes on without a restart.
            make_site(site.directory, source=site.directory / "half-plus-two", keystore={"passphrase_file": file})
            assert load(database, keystore, made) == made.key.reveal()
    finally:
        ASK_PASSPHRASE.reset(token)
