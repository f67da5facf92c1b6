"""Release keys: made here, and kept only encrypted.

Each key is encrypted by itself (AES-256-GCM) under a master key that is not in the database; the key's id is
authenticated with it, so that one key cannot be put in another's place. `KeyWrapper` is the seam behind which a key
management service can keep the master key instead of a file.
"""

import os
import secrets
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NewType, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, func, insert, select

from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
from sealserve.broker.database import KEYS, RELEASES, Database, to_text
from sealserve.errors import InputError, UnavailableError, VerificationError
from sealserve.secret import SecretBytes

KeyId = NewType("KeyId", str)
"""The public name of a release key: 16 random bytes as hex. It says nothing about the key."""

RELEASE_KEY_SIZE: Final = 16
MASTER_KEY_SIZE: Final = 32
_KEY_ID_SIZE: Final = 16
_NONCE_SIZE: Final = 12
_CONTEXT: Final = b"sealserve release key v1\0"


class MasterKeyExposedError(InputError):
    """Others than its owner can read or write the master key's file."""

    code = "keystore.master-key-exposed"


class MasterKeyLengthError(InputError):
    """The master key's file does not hold 32 bytes."""

    code = "keystore.master-key-length"


class MasterKeyMissingError(UnavailableError):
    """There are encrypted keys, and the master key's file is gone."""

    code = "keystore.master-key-missing"


class MasterKeyUnreadableError(UnavailableError):
    """The master key's file is there and cannot be read."""

    code = "keystore.master-key-unreadable"


class KeyUnknownError(InputError):
    """The keystore has no key of that id."""

    code = "keystore.unknown-key"


class KeyInUseError(InputError):
    """A key that a release names is not to be deleted."""

    code = "keystore.key-in-use"


class KeyUnwrapError(VerificationError):
    """A stored key does not decrypt: another master key, or a changed database."""

    code = "keystore.unwrap"


class KeyWrapper(Protocol):
    """Encrypts keys under one that stays where it is: in a file, or in a key management service."""

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Return ``secret``, encrypted and bound to ``context``."""

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Return what was wrapped for the same ``context``.

        Raises:
            KeyUnwrapError: ``wrapped`` was changed, or belongs to another context or master key.
        """


class MasterKey:
    """The master key of a file, as a `KeyWrapper`: 12 bytes nonce, then AES-256-GCM ciphertext and tag.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: SecretBytes) -> None:
        self._cipher = AESGCM(key.reveal())

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """See `KeyWrapper`."""
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return nonce + self._cipher.encrypt(nonce, secret.reveal(), context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """See `KeyWrapper`."""
        try:
            return SecretBytes(self._cipher.decrypt(wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:], context))
        except (InvalidTag, ValueError) as error:
            raise KeyUnwrapError(
                "A stored release key does not decrypt under this master key.",
                hint="Restore the master key and the database from the same backup.",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseKey:
    """A new release key and its id."""

    key_id: KeyId
    key: SecretBytes


class Keystore:
    """The release keys in the broker's database.

    Args:
        wrapper: Encrypts them.
    """

    def __init__(self, wrapper: KeyWrapper) -> None:
        self._wrapper = wrapper

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
            KeyUnknownError: There is none.
            KeyUnwrapError: It does not decrypt.
        """
        wrapped = connection.execute(select(KEYS.c.wrapped).where(KEYS.c.key_id == key_id)).scalar()
        if wrapped is None:
            raise KeyUnknownError(
                f"The keystore has no key {key_id}.", hint="Build the release on the machine that holds its key."
            )
        return self._wrapper.unwrap(wrapped, context=_context(key_id))

    def discard(self, connection: Connection, key_id: KeyId) -> None:
        """Delete a key that no release names; what was sealed with it is lost.

        Raises:
            KeyInUseError: A release that the broker knows names it.
        """
        used = connection.execute(select(RELEASES.c.name).where(RELEASES.c.key_id == key_id)).scalar()
        if used is not None:
            raise KeyInUseError(f"The key {key_id} is that of the release {used}.", hint="Revoke the release instead.")
        connection.execute(delete(KEYS).where(KEYS.c.key_id == key_id))


def open_keystore(database: Database, master_key: Path) -> Keystore:
    """Return the keystore whose master key is the file at ``master_key``, which is made on first use.

    Raises:
        MasterKeyMissingError: The file is gone, and there are keys that only it can decrypt.
        MasterKeyExposedError: Others can read or write it.
        MasterKeyLengthError: It does not hold 32 bytes.
        MasterKeyUnreadableError: It cannot be read.
    """
    if not master_key.exists():
        with database.read() as connection:
            stored = connection.execute(select(func.count()).select_from(KEYS)).scalar_one()
        if stored:
            raise MasterKeyMissingError(
                f"{master_key} is missing, and {stored} release keys are encrypted under it.",
                hint="Restore it from your backup; a new master key cannot decrypt them.",
            )
        _create_master_key(master_key)
    return Keystore(MasterKey(_read_master_key(master_key)))


def _create_master_key(path: Path) -> None:
    try:
        with SecretBytes.random(MASTER_KEY_SIZE) as key:
            write_file(path, key.reveal(), mode=PRIVATE, overwrite=False)
    except OutputExistsError:
        pass  # another process was faster; its key is the key


def _read_master_key(path: Path) -> SecretBytes:
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise MasterKeyExposedError(
                    f"{path} has mode {mode:04o}: others than its owner can use the master key; expected 0600.",
                    hint=f"chmod 600 {path}, and think of who may have read it.",
                )
            content = stream.read(MASTER_KEY_SIZE + 1)
    except OSError as error:
        raise MasterKeyUnreadableError(f"The master key {path} cannot be read: {error.strerror}.") from error
    if len(content) != MASTER_KEY_SIZE:
        found = "more" if len(content) > MASTER_KEY_SIZE else str(len(content))
        raise MasterKeyLengthError(
            f"{path} holds {found} bytes, a master key has {MASTER_KEY_SIZE}.", hint="Restore it from your backup."
        )
    return SecretBytes(content)


def _context(key_id: KeyId) -> bytes:
    return _CONTEXT + key_id.encode("ascii")
