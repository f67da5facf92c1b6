"""The keystore: it generates release keys and stores them only in encrypted form.

A `KeyWrapper` encrypts each key separately, with a master key in a file (`master_key`) or in a key management service
(`transit`). The key's id is authenticated with the key, so that stored keys cannot be swapped.
"""

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NewType

from sqlalchemy import Connection, delete, insert, select, update

from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import KEYS, RELEASES, Database, reading, to_text
from sealserve.broker.key_wrapper import KeyUnwrapError, KeyWrapper
from sealserve.broker.master_key import MASTER_KEY_SIZE, MasterKey, raw, read_master_key
from sealserve.broker.passphrase import Passphrase, no_passphrase
from sealserve.secret import SecretBytes

KeyId = NewType("KeyId", str)
"""The public id of a release key: 16 random bytes as hex. It is independent of the key."""

RELEASE_KEY_SIZE: Final = 16
_KEY_ID_SIZE: Final = 16
_CONTEXT: Final = b"sealserve release key v1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseKey:
    """A new release key and its id."""

    key_id: KeyId
    key: SecretBytes


class Keystore:
    """The release keys in the broker's database.

    Args:
        wrapper: Encrypts and decrypts the keys.
        older: Decrypts keys that another wrapper encrypted and that are not yet re-encrypted. `None`: no such keys.
    """

    def __init__(self, wrapper: KeyWrapper, older: KeyWrapper | None = None) -> None:
        self._wrapper = wrapper
        self._older = older

    def create(self, connection: Connection, *, now: datetime) -> ReleaseKey:
        """Generate a key of 128 random bits and store it encrypted."""
        key_id = KeyId(secrets.token_hex(_KEY_ID_SIZE))
        key = SecretBytes.random(RELEASE_KEY_SIZE)
        wrapped = self._wrapper.wrap(key, context=_context(key_id))
        connection.execute(insert(KEYS).values(key_id=key_id, wrapped=wrapped, created=to_text(now)))
        return ReleaseKey(key_id=key_id, key=key)

    def load(self, connection: Connection, key_id: KeyId) -> SecretBytes:
        """Return the decrypted key with the id ``key_id``.

        Raises:
            InputError: `keystore.unknown-key` if the keystore does not contain the key.
            KeyUnwrapError: The key cannot be decrypted.
        """
        with reading("keys"):
            wrapped = connection.execute(select(KEYS.c.wrapped).where(KEYS.c.key_id == key_id)).scalar()
        if wrapped is None:
            raise BrokerCode.KEYSTORE_UNKNOWN_KEY.error(
                f"The keystore does not contain the key {key_id}.",
                hint="Build the release on the machine whose keystore contains its key.",
            )
        return self._unwrap(wrapped, key_id)

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt another secret of the owner like a release key, with a ``context`` that no release key uses."""
        return self._wrapper.wrap(secret, context=context)

    def rewrap(self, connection: Connection, wrapper: KeyWrapper) -> int:
        """Re-encrypt all keys with ``wrapper``; return the number of keys.

        Raises:
            KeyUnwrapError: A key cannot be decrypted. The caller must roll back the transaction.
        """
        with reading("keys"):
            rows = connection.execute(select(KEYS.c.key_id, KEYS.c.wrapped)).all()
        for key_id, wrapped in rows:
            with self._unwrap(wrapped, key_id) as key:
                fresh = wrapper.wrap(key, context=_context(key_id))
            connection.execute(update(KEYS).where(KEYS.c.key_id == key_id).values(wrapped=fresh))
        return len(rows)

    def _unwrap(self, wrapped: bytes, key_id: KeyId) -> SecretBytes:
        for wrapper in (self._wrapper, self._older):
            if wrapper is not None and wrapper.wrapped_here(wrapped):
                return wrapper.unwrap(wrapped, context=_context(key_id))
        raise KeyUnwrapError(
            f"The key {key_id} was not encrypted by the keystore that sealserve.toml configures.",
            hint="Keep the settings of the key management service in [keystore] until "
            "`sealserve broker rotate-master` has completed.",
        )

    def discard(self, connection: Connection, key_id: KeyId) -> None:
        """Delete a key that no release uses. Data sealed with the key can no longer be decrypted.

        Raises:
            InputError: `keystore.key-in-use` if a registered release uses the key.
        """
        used = connection.execute(select(RELEASES.c.name).where(RELEASES.c.key_id == key_id)).scalar()
        if used is not None:
            raise BrokerCode.KEYSTORE_KEY_IN_USE.error(
                f"The key {key_id} cannot be deleted: the release {used} uses it.",
                hint="Run `sealserve broker revoke` to revoke the release instead.",
            )
        connection.execute(delete(KEYS).where(KEYS.c.key_id == key_id))


def open_keystore(
    database: Database,
    master_key: Path,
    *,
    passphrase: Passphrase = no_passphrase,
    service: KeyWrapper | None = None,
    use_service: bool = False,
    create: bool = True,
) -> Keystore:
    """Open the keystore whose master key is in the file at ``master_key`` or in a key management service.

    Args:
        database: The database with the encrypted keys.
        master_key: The master key file.
        passphrase: Called if the file is encrypted with a passphrase.
        service: A key management service. It encrypts new keys, or only decrypts keys that it encrypted earlier.
        use_service: Whether new keys are encrypted by ``service`` (`True`) or with the file (`False`).
        create: Whether to create the file if it does not exist and no stored key requires it.

    Raises:
        UnavailableError: `keystore.master-key-missing` if the file does not exist and stored keys require it, or if
            ``create`` is `False`.
        InputError: `keystore.master-key-exposed` if other users can read or write the file.
        InputError: `keystore.master-key-length` if the file does not contain exactly 32 bytes.
        UnavailableError: `keystore.master-key-unreadable` if the file cannot be read.
        InputError: `keystore.passphrase-missing` or `keystore.passphrase-wrong` if the master key cannot be decrypted.
    """
    if service is not None and use_service:
        if _count(database, but=service) == 0:
            return Keystore(service)
        return Keystore(service, _open_file(database, master_key, passphrase, service, create=False))
    return Keystore(_open_file(database, master_key, passphrase, service, create=create), service)


def rotate_master_key(
    database: Database, keystore: Keystore, master_key: Path, *, form: Callable[[SecretBytes], bytes] = raw
) -> int:
    """Replace the master key in the file at ``master_key``; return the number of keys that are encrypted with it.

    At each moment, a file exists whose key decrypts the database. The new key is first written beside the old file. It
    replaces the old file after all keys are re-encrypted. After an interruption, the next process that opens the
    keystore completes the rotation.

    Args:
        database: The database with the encrypted keys.
        keystore: Decrypts the keys.
        master_key: The master key file.
        form: Returns the file content for a key. The default is the raw form.

    Raises:
        KeyUnwrapError: A stored key cannot be decrypted. Nothing was changed.
    """
    beside = _beside(master_key)
    with database.write() as connection, SecretBytes.random(MASTER_KEY_SIZE) as key:
        write_file(beside, form(key), mode=PRIVATE)
        count = keystore.rewrap(connection, MasterKey(key))
    with contextlib.suppress(FileNotFoundError):  # another process completed the rotation meanwhile
        beside.replace(master_key)
    return count


def is_rotation_unfinished(master_key: Path) -> bool:
    """Return whether a rotation was interrupted. The next `open_keystore` completes it."""
    return _beside(master_key).exists()


def rewrap(database: Database, keystore: Keystore, wrapper: KeyWrapper) -> int:
    """Re-encrypt all keys with ``wrapper`` in one transaction; return the number of keys.

    Raises:
        KeyUnwrapError: A stored key cannot be decrypted. Nothing was changed.
    """
    with database.write() as connection:
        return keystore.rewrap(connection, wrapper)


def _open_file(
    database: Database, master_key: Path, passphrase: Passphrase, service: KeyWrapper | None, *, create: bool
) -> MasterKey:
    if _beside(master_key).exists():
        _finish_rotation(database, master_key, passphrase, service)
    if not master_key.exists():
        stored = _count(database, but=service)
        if not create and not stored:
            raise BrokerCode.KEYSTORE_MASTER_KEY_MISSING.error(
                f"The master key file {master_key} does not exist.",
                hint="Run `sealserve release build` to create it.",
            )
        if stored:
            raise BrokerCode.KEYSTORE_MASTER_KEY_MISSING.error(
                f"The master key file {master_key} does not exist, but {stored} release keys are encrypted with it.",
                hint="Restore the file from a backup. A new master key cannot decrypt these keys.",
            )
        _create_master_key(master_key)
    return MasterKey(read_master_key(master_key, passphrase=passphrase))


def _finish_rotation(database: Database, master_key: Path, passphrase: Passphrase, service: KeyWrapper | None) -> None:
    """Complete an interrupted rotation: retain the file whose key decrypts the database, and remove the other."""
    beside = _beside(master_key)
    with database.write() as connection:  # the write lock excludes other processes
        with reading("keys"):
            rows = connection.execute(select(KEYS.c.key_id, KEYS.c.wrapped)).all()
        stored = [(key_id, wrapped) for key_id, wrapped in rows if service is None or not service.wrapped_here(wrapped)]
        if not beside.exists():
            return
        if not stored or _decrypts(read_master_key(master_key, passphrase=passphrase), *stored[0]):
            beside.unlink()
        elif _decrypts(read_master_key(beside, passphrase=passphrase), *stored[0]):
            beside.replace(master_key)


def _decrypts(key: SecretBytes, key_id: KeyId, wrapped: bytes) -> bool:
    try:
        MasterKey(key).unwrap(wrapped, context=_context(key_id)).wipe()
    except KeyUnwrapError:
        return False
    return True


def _beside(master_key: Path) -> Path:
    return master_key.with_name(f"{master_key.name}.next")


def _count(database: Database, *, but: KeyWrapper | None) -> int:
    """Return the number of stored keys that ``but`` did not encrypt."""
    with database.read() as connection, reading("keys"):
        return sum(
            but is None or not but.wrapped_here(found) for found in connection.execute(select(KEYS.c.wrapped)).scalars()
        )


def _create_master_key(path: Path) -> None:
    try:
        with SecretBytes.random(MASTER_KEY_SIZE) as key:
            write_file(path, raw(key), mode=PRIVATE, overwrite=False)
    except OutputExistsError:
        pass  # another process created the file first, and its key is used


def _context(key_id: KeyId) -> bytes:
    return _CONTEXT + key_id.encode("ascii")
