"""The keystore: it generates release keys and stores them only in encrypted form.

A `KeyWrapper` encrypts each key separately, with a master key in a file (`master_key`) or in a key service (`transit`,
`pkcs11_key`). The database stores the wrapper's id with each key. Both ids are authenticated with the key, so that
stored keys cannot be swapped or moved to another wrapper.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, delete, select

from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
from sealserve.broker import stored_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import FILE, KeyUnwrapError, KeyWrapper, WrapperId
from sealserve.broker.master_key import MASTER_KEY_SIZE, MasterKey, raw, read_master_key
from sealserve.broker.passphrase import Passphrase, no_passphrase
from sealserve.broker.replaced_content import move_content
from sealserve.broker.stored_key import KeyId, StoredKey
from sealserve.broker.stored_time import to_text
from sealserve.broker.tables import KEYS, RELEASES
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes

__all__ = ["KeyId", "Keystore", "ReleaseKey", "open_keystore"]

RELEASE_KEY_SIZE: Final = 16
_KEY_ID_SIZE: Final = 16
_DAMAGED: Final = (
    BrokerCode.KEYSTORE_MASTER_KEY_LENGTH,
    BrokerCode.KEYSTORE_MASTER_KEY_FORM,
    BrokerCode.KEYSTORE_PASSPHRASE_WRONG,
)
_ATTEMPTS: Final = 5  # of a rotation while other processes add keys
_PROVIDERS: Final[Mapping[str, str]] = {
    "file": "Run the command with the workspace whose owner/master.key encrypted the key.",
    "transit": "Set transit_url, transit_mount, transit_key and transit_token_file in the [keystore] section.",
    "pkcs11": "Set pkcs11_module, pkcs11_token, pkcs11_key and pkcs11_pin_file in the [keystore] section.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseKey:
    """A new release key and its id."""

    key_id: KeyId
    key: SecretBytes


class Keystore:
    """The release keys in the broker's database.

    Args:
        current: Encrypts new keys.
        others: Decrypt keys that they encrypted earlier.
        check_current: Called in the transaction that stores a new key. It raises an error if ``current`` was replaced
            meanwhile, because no later process could decrypt the new key.
    """

    def __init__(
        self,
        current: KeyWrapper,
        others: Iterable[KeyWrapper] = (),
        *,
        check_current: Callable[[], None] = lambda: None,
    ) -> None:
        self._current = current
        self._check_current = check_current
        self._wrappers: dict[WrapperId, KeyWrapper] = {}
        for wrapper in (current, *others):
            self._wrappers.setdefault(wrapper.wrapper_id, wrapper)
            # An upgraded database names only the kind of a wrapper.
            self._wrappers.setdefault(WrapperId(wrapper.wrapper_id.partition(":")[0]), wrapper)

    def create(self, database: Database, *, now: datetime) -> ReleaseKey:
        """Generate a key of 128 random bits and store it encrypted.

        Raises:
            UnavailableError: `keystore.rotating` if another process replaced the master key meanwhile.
        """
        key_id = KeyId(secrets.token_hex(_KEY_ID_SIZE))
        key = SecretBytes.random(RELEASE_KEY_SIZE)
        # A key service can take seconds: no transaction is open meanwhile.
        stored = stored_key.encrypt(key_id, key, self._current)
        with database.write() as connection:
            self._check_current()
            stored_key.add(connection, stored, created=to_text(now))
        return ReleaseKey(key_id=key_id, key=key)

    def store_issuing(self, database: Database, key_id: KeyId, key: SecretBytes, *, now: datetime) -> None:
        """Store the private key of an issuing CA encrypted.

        Raises:
            UnavailableError: `keystore.rotating` if another process replaced the master key meanwhile.
        """
        stored = stored_key.encrypt(key_id, key, self._current, format_=stored_key.ISSUING_FORMAT)
        with database.write() as connection:
            self._check_current()
            stored_key.add(connection, stored, created=to_text(now))

    def load(self, connection: Connection, key_id: KeyId) -> SecretBytes:
        """Return the decrypted key with the id ``key_id``. The broker uses `stored_key.find` and `decrypt` instead.

        Raises:
            InputError: `keystore.unknown-key` if the keystore does not contain the key.
            SealserveError: As `decrypt`.
        """
        return self.decrypt(stored_key.find(connection, key_id))

    def decrypt(self, stored: StoredKey) -> SecretBytes:
        """Return the decrypted key. A key service can take seconds, so no writing transaction may be open.

        Raises:
            InputError: `keystore.unknown-wrapper` if sealserve.toml does not name the wrapper of the key.
            KeyUnwrapError: The key cannot be decrypted.
            SealserveError: The key service failed.
        """
        wrapper = self._wrappers.get(stored.wrapper)
        if wrapper is None:
            raise _unknown_wrapper(stored, self._wrappers.values())
        return wrapper.unwrap(stored.wrapped, context=stored.context)

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt another secret of the owner like a release key, with a ``context`` that no release key uses."""
        return self._current.wrap(secret, context=context)

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
        connection.execute(delete(KEYS).where(KEYS.c.key_id == key_id, stored_key.RELEASE_KEYS))


def discard_issuing(connection: Connection, *, but: Iterable[str]) -> int:
    """Delete the private keys of issuing CAs, except the keys with the ids ``but``. Return their number."""
    replaced = ~stored_key.RELEASE_KEYS & KEYS.c.key_id.not_in(tuple(but))
    return connection.execute(delete(KEYS).where(replaced)).rowcount


def open_keystore(
    database: Database,
    master_key: Path,
    *,
    passphrase: Passphrase = no_passphrase,
    services: Iterable[KeyWrapper] = (),
    current: KeyWrapper | None = None,
    create: bool = True,
) -> Keystore:
    """Open the keystore whose master key is in the file at ``master_key`` or in a key service.

    Args:
        database: The database with the encrypted keys.
        master_key: The master key file. It is opened only if it encrypts new keys or if stored keys require it.
        passphrase: Called if the file is encrypted with a passphrase.
        services: The key services. They decrypt the keys that they encrypted earlier.
        current: The key service that encrypts new keys. `None`: the file encrypts them.
        create: Whether to create the file if it does not exist and no stored key requires it.

    Raises:
        UnavailableError: `keystore.master-key-missing` if the file does not exist and stored keys require it, or if
            ``create`` is `False`.
        InputError: `keystore.master-key-exposed` if other users can read or write the file.
        InputError: `keystore.master-key-length` if the file does not contain exactly 32 bytes.
        UnavailableError: `keystore.master-key-unreadable` if the file cannot be read.
        InputError: `keystore.passphrase-missing` or `keystore.passphrase-wrong` if the master key cannot be decrypted.
    """
    services = tuple(services)
    if current is None and not create and not master_key.exists() and (elsewhere := _elsewhere(database)):
        # Without the file, a reader needs only the services. A new file would not decrypt any key.
        if not services:
            raise _unknown_wrapper(elsewhere, ())
        return Keystore(services[0], services[1:])
    if current is None:
        file, check = _open_file(database, master_key, passphrase, create=create)
        return Keystore(file, services, check_current=check)
    if _in_file(database) == 0:
        return Keystore(current, services)
    file, _ = _open_file(database, master_key, passphrase, create=False)
    return Keystore(current, (*services, file))


def rotate_master_key(
    database: Database, keystore: Keystore, master_key: Path, *, form: Callable[[SecretBytes], bytes] = raw
) -> int:
    """Replace the master key in the file at ``master_key``; return the number of keys that are encrypted with it.

    At each moment, a file exists whose key decrypts the database. The new key is first written beside the old file. Its
    content replaces that of the old file after all keys are re-encrypted. After an interruption, the next process that
    opens the keystore completes the rotation.

    Args:
        database: The database with the encrypted keys.
        keystore: Decrypts the keys.
        master_key: The master key file.
        form: Returns the file content for a key. The default is the raw form.

    Raises:
        KeyUnwrapError: A stored key cannot be decrypted. Nothing was changed.
        UnavailableError: `keystore.rotating` if another process rotates the key at the same time.
    """
    beside = _beside(master_key)

    def write_beside() -> None:
        if beside.exists():  # the only other file whose key decrypts the database must not be overwritten
            raise _rotating()
        write_file(beside, content, mode=PRIVATE)

    with SecretBytes.random(MASTER_KEY_SIZE) as key:
        content = form(key)
        count = rewrap(database, keystore, MasterKey(key), before=write_beside)
    with database.write():  # the write lock excludes other processes that rotate the key or complete this rotation
        if beside.exists() and beside.read_bytes() == content:
            move_content(beside, master_key)
    return count


def is_rotation_unfinished(master_key: Path) -> bool:
    """Return whether a rotation was interrupted. The next `open_keystore` completes it."""
    return _beside(master_key).exists()


def rotation_files(master_key: Path) -> Sequence[Path]:
    """Return the files that a rotation creates or replaces."""
    return master_key, _beside(master_key)


def rewrap(
    database: Database, keystore: Keystore, wrapper: KeyWrapper, *, before: Callable[[], None] = lambda: None
) -> int:
    """Re-encrypt all keys with ``wrapper``; return the number of keys. Either all keys change, or no key.

    Key services are called while no transaction is open, because a slow service would stop the broker.

    Args:
        database: The database with the encrypted keys.
        keystore: Decrypts the keys.
        wrapper: Encrypts the keys.
        before: Called in the transaction that replaces the keys, before the first replacement.

    Raises:
        KeyUnwrapError: A stored key cannot be decrypted. Nothing was changed.
        UnavailableError: `keystore.rotating` if other processes changed the keys repeatedly.
    """
    fresh: dict[StoredKey, StoredKey] = {}
    for _ in range(_ATTEMPTS):
        # 1. Read the keys.
        with database.read() as connection:
            found = stored_key.every(connection)
        # 2. Re-encrypt each key that is new since the last attempt.
        fresh = {stored: fresh.get(stored) or _encrypted_again(stored, keystore, wrapper) for stored in found}
        # 3. Replace them all, if no other process added or changed a key meanwhile.
        with database.write() as connection:
            if stored_key.every(connection) == found:
                before()
                for stored in fresh.values():
                    stored_key.replace(connection, stored)
                return len(fresh)
    raise _rotating()


def _encrypted_again(stored: StoredKey, keystore: Keystore, wrapper: KeyWrapper) -> StoredKey:
    with keystore.decrypt(stored) as key:
        return stored_key.encrypt(stored.key_id, key, wrapper, format_=_current_format(stored))


def _current_format(stored: StoredKey) -> int:
    return stored_key.FORMAT if stored.is_release_key else stored_key.ISSUING_FORMAT


def _unknown_wrapper(stored: StoredKey, wrappers: Iterable[KeyWrapper]) -> SealserveError:
    configured = ", ".join(sorted({wrapper.wrapper_id for wrapper in wrappers})) or FILE
    provider = _PROVIDERS.get(stored.wrapper.partition(":")[0], "Restore the database from a backup.")
    return BrokerCode.KEYSTORE_UNKNOWN_WRAPPER.error(
        f"The key {stored.key_id} cannot be decrypted: {stored.wrapper!r:.200} encrypted it, but sealserve.toml "
        f"configures only {configured}.",
        hint=f"{provider} Keep these settings until `sealserve broker rotate-master` has completed.",
    )


def _rotating() -> SealserveError:
    return BrokerCode.KEYSTORE_ROTATING.error(
        "Another process replaced the master key or changed the stored keys at the same time.",
        hint="Run the command again after the other command has ended.",
    )


def _open_file(
    database: Database, master_key: Path, passphrase: Passphrase, *, create: bool
) -> tuple[MasterKey, Callable[[], None]]:
    """Return the key in the file, and a function that raises an error if another file has replaced it since."""
    if _beside(master_key).exists():
        _finish_rotation(database, master_key, passphrase)
    if not master_key.exists():
        stored = _in_file(database)
        if not create and not stored:
            raise BrokerCode.KEYSTORE_MASTER_KEY_MISSING.error(
                f"The master key file {master_key} does not exist.",
                hint="Run `sealserve release build` to create it.",
            )
        if stored:
            raise BrokerCode.KEYSTORE_MASTER_KEY_MISSING.error(
                f"The master key file {master_key} does not exist, but {keys_are(stored)} encrypted with it.",
                hint="Restore the file from a backup. A new master key cannot decrypt the stored keys.",
            )
        _create_master_key(master_key)
    opened = _identity(master_key)

    def check() -> None:
        if _identity(master_key) != opened or _beside(master_key).exists():
            raise _rotating()

    return MasterKey(read_master_key(master_key, passphrase=passphrase)), check


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _finish_rotation(database: Database, master_key: Path, passphrase: Passphrase) -> None:
    """Complete an interrupted rotation: retain the file whose key decrypts the database, and remove the other."""
    beside = _beside(master_key)
    with database.write() as connection:  # the write lock excludes other processes
        stored = [stored for stored in stored_key.every(connection) if stored.wrapper == FILE]
        if not beside.exists():
            return
        if _decrypts(master_key, passphrase, stored[:1]):
            beside.unlink()
        elif _decrypts(beside, passphrase, stored[:1]):
            move_content(beside, master_key)


def _decrypts(file: Path, passphrase: Passphrase, stored: Iterable[StoredKey]) -> bool:
    """Return whether the master key in a file can be read and decrypts the keys ``stored``."""
    try:
        key = MasterKey(read_master_key(file, passphrase=passphrase))
        for each in stored:
            key.unwrap(each.wrapped, context=each.context).wipe()
    except KeyUnwrapError:
        return False
    except SealserveError as error:
        if error.code in _DAMAGED:  # a power failure interrupted the replacement of the content
            return False
        raise
    return True


def keys_are(number: int) -> str:
    """Return the subject and the verb of a sentence about stored keys: of releases, and of the issuing CA."""
    return "1 stored key is" if number == 1 else f"{number} stored keys are"


def _beside(master_key: Path) -> Path:
    return master_key.with_name(f"{master_key.name}.next")


def _in_file(database: Database) -> int:
    """Return the number of stored keys that the master key file encrypted."""
    with database.read() as connection:
        return stored_key.count(connection, FILE)


def _elsewhere(database: Database) -> StoredKey | None:
    """Return a stored key if other wrappers than the file encrypted all of them. Return None otherwise."""
    with database.read() as connection:
        stored = stored_key.every(connection)
    return stored[0] if stored and all(key.wrapper != FILE for key in stored) else None


def _create_master_key(path: Path) -> None:
    try:
        with SecretBytes.random(MASTER_KEY_SIZE) as key:
            write_file(path, raw(key), mode=PRIVATE, overwrite=False)
    except OutputExistsError:
        pass  # another process created the file first, and its key is used
