"""Release keys: made here, and kept only encrypted.

Each key is encrypted by itself, by a `KeyWrapper`: under a master key in a file (`master_key`), or by a key management
service (`transit`). The key's id is authenticated with it, so that one key cannot be put in another's place.
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
"""The public name of a release key: 16 random bytes as hex. It says nothing about the key."""

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
        wrapper: Encrypts them.
        older: Decrypts those that were encrypted by another one, and are not yet encrypted again.
    """

    def __init__(self, wrapper: KeyWrapper, older: KeyWrapper | None = None) -> None:
        self._wrapper = wrapper
        self._older = older

    def create(self, connection: Connection, *, now: datetime) -> ReleaseKey:
        """Make a new key, 128 random bits, and store it encrypted."""
        key_id = KeyId(secrets.token_hex(_KEY_ID_SIZE))
        key = SecretBytes.random(RELEASE_KEY_SIZE)
        wrapped = self._wrapper.wrap(key, context=_context(key_id))
        connection.execute(insert(KEYS).values(key_id=key_id, wrapped=wrapped, created=to_text(now)))
        return ReleaseKey(key_id=key_id, key=key)

    def load(self, connection: Connection, key_id: KeyId) -> SecretBytes:
        """Return the key named ``key_id``.

        Raises:
            InputError: `keystore.unknown-key`: There is none.
            KeyUnwrapError: It does not decrypt.
        """
        with reading("keys"):
            wrapped = connection.execute(select(KEYS.c.wrapped).where(KEYS.c.key_id == key_id)).scalar()
        if wrapped is None:
            raise BrokerCode.KEYSTORE_UNKNOWN_KEY.error(
                f"The keystore has no key {key_id}.", hint="Build the release on the machine that holds its key."
            )
        return self._unwrap(wrapped, key_id)

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt another secret of the owner's as release keys are, bound to a ``context`` that none of them has."""
        return self._wrapper.wrap(secret, context=context)

    def rewrap(self, connection: Connection, wrapper: KeyWrapper) -> int:
        """Encrypt all keys again, with ``wrapper``; return how many there are.

        Raises:
            KeyUnwrapError: One does not decrypt. Roll the transaction back.
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
            f"The key {key_id} was encrypted by something else than the keystore of sealserve.toml.",
            hint="Keep the settings of the key management service in [keystore] until `broker rotate-master` is done.",
        )

    def discard(self, connection: Connection, key_id: KeyId) -> None:
        """Delete a key that no release names; what was sealed with it is lost.

        Raises:
            InputError: `keystore.key-in-use`: A release that the broker knows names it.
        """
        used = connection.execute(select(RELEASES.c.name).where(RELEASES.c.key_id == key_id)).scalar()
        if used is not None:
            raise BrokerCode.KEYSTORE_KEY_IN_USE.error(
                f"The key {key_id} is that of the release {used}.", hint="Revoke the release instead."
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
    """Return the keystore whose master key is the file at ``master_key``, or in a service.

    Args:
        database: Holds the encrypted keys.
        master_key: The file.
        passphrase: Called if the file needs one.
        service: A key management service: encrypts new keys, or only decrypts those that it encrypted.
        use_service: Which of both.
        create: Whether to create the file if it does not exist and no stored key needs it.

    Raises:
        UnavailableError: `keystore.master-key-missing`: The file is missing, and there are keys that only it can
            decrypt, or none is created.
        InputError: `keystore.master-key-exposed`: Others can read or write it.
        InputError: `keystore.master-key-length`: It does not hold 32 bytes.
        UnavailableError: `keystore.master-key-unreadable`: It cannot be read.
        InputError: `keystore.passphrase-missing`, `keystore.passphrase-wrong`: It does not open.
    """
    if service is not None and use_service:
        if _count(database, but=service) == 0:
            return Keystore(service)
        return Keystore(service, _open_file(database, master_key, passphrase, service, create=False))
    return Keystore(_open_file(database, master_key, passphrase, service, create=create), service)


def rotate_master_key(
    database: Database, keystore: Keystore, master_key: Path, *, form: Callable[[SecretBytes], bytes] = raw
) -> int:
    """Put a fresh master key in the place of that in the file at ``master_key``; return how many keys are under it.

    At each moment there is a file whose key decrypts the database: the new one is put beside the old one first, and
    takes its place when all keys are encrypted again. Who opens the keystore after an interruption does the rest.

    Args:
        database: Holds the encrypted keys.
        keystore: Opens them.
        master_key: The file.
        form: Gives the content of the file.

    Raises:
        KeyUnwrapError: A stored key does not decrypt. Nothing has changed.
    """
    beside = _beside(master_key)
    with database.write() as connection, SecretBytes.random(MASTER_KEY_SIZE) as key:
        write_file(beside, form(key), mode=PRIVATE)
        count = keystore.rewrap(connection, MasterKey(key))
    with contextlib.suppress(FileNotFoundError):  # somebody opened the keystore meanwhile, and did it
        beside.replace(master_key)
    return count


def is_rotation_unfinished(master_key: Path) -> bool:
    """Return whether `rotate_master_key` was interrupted: the next `open_keystore` completes it."""
    return _beside(master_key).exists()


def rewrap(database: Database, keystore: Keystore, wrapper: KeyWrapper) -> int:
    """Encrypt all keys again with ``wrapper``, all or none; return how many there are.

    Raises:
        KeyUnwrapError: A stored key does not decrypt. Nothing has changed.
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
                f"{master_key} is missing.", hint="`sealserve release build` creates it."
            )
        if stored:
            raise BrokerCode.KEYSTORE_MASTER_KEY_MISSING.error(
                f"{master_key} is missing, and {stored} release keys are encrypted under it.",
                hint="Restore it from your backup; a new master key cannot decrypt them.",
            )
        _create_master_key(master_key)
    return MasterKey(read_master_key(master_key, passphrase=passphrase))


def _finish_rotation(database: Database, master_key: Path, passphrase: Passphrase, service: KeyWrapper | None) -> None:
    """Keep that of both files whose key decrypts the database: a rotation was interrupted."""
    beside = _beside(master_key)
    with database.write() as connection:  # nobody is at it
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
    """Return how many keys are stored that ``but`` did not encrypt."""
    with database.read() as connection, reading("keys"):
        return sum(
            but is None or not but.wrapped_here(found) for found in connection.execute(select(KEYS.c.wrapped)).scalars()
        )


def _create_master_key(path: Path) -> None:
    try:
        with SecretBytes.random(MASTER_KEY_SIZE) as key:
            write_file(path, raw(key), mode=PRIVATE, overwrite=False)
    except OutputExistsError:
        pass  # another process was faster; its key is the key


def _context(key_id: KeyId) -> bytes:
    return _CONTEXT + key_id.encode("ascii")
