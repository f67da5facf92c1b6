"""The rows of the table ``keys``: keys in encrypted form, each with the id of the key that encrypted it.

The associated data of a ciphertext has one of three formats:

- *1*: a constant and the release key's id. Only versions before the table had a column for the wrapper wrote it.
- *2*: a constant, the release key's id, and the wrapper's id. A client that writes to the database can therefore
  neither swap two keys nor change the wrapper of a key.
- *3*: the same with another constant, for the private key of the issuing CA (`sealserve.pki.issuing`). The other rows
  are release keys. A key of one kind is never used as a key of the other kind, because its ciphertext does not decrypt
  with the other format.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NewType

from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import reading
from sealserve.broker.key_wrapper import KeyWrapper, WrapperId
from sealserve.broker.prepared import Prepared
from sealserve.broker.tables import KEYS
from sealserve.broker.wanted_row import check_wanted
from sealserve.secret import SecretBytes

KeyId = NewType("KeyId", str)
"""The public id of a release key: 16 random bytes as hex. It is independent of the key."""

FORMAT: Final = 2
"""The format of new release keys."""
ISSUING_FORMAT: Final = 3
"""The format of the private keys of issuing CAs."""
_CONTEXTS: Final = {
    1: b"sealserve release key v1\0",
    2: b"sealserve release key v2\0",
    3: b"sealserve issuing key v1\0",
}


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as the database stores it.

    Args:
        key_id: The key's id.
        wrapper: The id of the wrapper that encrypted it.
        format: The format of the associated data.
        wrapped: The ciphertext.
    """

    key_id: KeyId
    wrapper: WrapperId
    format: int
    wrapped: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.wrapped, bytes) or not isinstance(self.wrapper, str) or self.format not in _CONTEXTS:
            raise ValueError("not a stored key")

    @property
    def is_release_key(self) -> bool:
        """Whether it is the key of a release, and not the private key of an issuing CA."""
        return self.format != ISSUING_FORMAT

    @property
    def context(self) -> bytes:
        """The associated data of the ciphertext."""
        bound = self.key_id if self.format == 1 else f"{self.key_id}\0{self.wrapper}"
        return _CONTEXTS[self.format] + bound.encode()


def encrypt(key_id: KeyId, key: SecretBytes, wrapper: KeyWrapper, *, format_: int = FORMAT) -> StoredKey:
    """Encrypt a key. A key service can take seconds, so no transaction should be open."""
    bound = StoredKey(key_id, wrapper.wrapper_id, format_, b"")
    return StoredKey(key_id, bound.wrapper, format_, wrapper.wrap(key, context=bound.context))


def add(connection: Connection, stored: StoredKey, *, created: str) -> None:
    """Insert a key that does not exist yet."""
    connection.execute(insert(KEYS).values(key_id=stored.key_id, created=created, **_values(stored)))


def replace(connection: Connection, stored: StoredKey) -> None:
    """Replace the encrypted form of a key that exists."""
    connection.execute(update(KEYS).where(KEYS.c.key_id == stored.key_id).values(**_values(stored)))


def find(connection: Connection, key_id: KeyId) -> StoredKey:
    """Return the stored release key with the id ``key_id``.

    Raises:
        InputError: `keystore.unknown-key` if the keystore does not contain the release key.
        VerificationError: `broker.database-content` if the row has content that sealserve never writes.
        VerificationError: `broker.database-authentication` if the database returned another key.
    """
    if (found := _find(connection, key_id)) is not None and found.is_release_key:
        return found
    raise BrokerCode.KEYSTORE_UNKNOWN_KEY.error(
        f"The keystore does not contain the key {key_id}.",
        hint="Build the release on the machine whose keystore contains its key.",
    )


def find_issuing(connection: Connection, key_id: KeyId) -> StoredKey:
    """Return the stored private key of an issuing CA. See `find`.

    Raises:
        InputError: `keystore.unknown-issuing-key` if the keystore does not contain the key.
    """
    if (found := _find(connection, key_id)) is not None and not found.is_release_key:
        return found
    raise BrokerCode.KEYSTORE_UNKNOWN_ISSUING_KEY.error(
        f"The keystore does not contain the key {key_id} of the issuing CA.",
        hint="Copy owner/issuing from the owner's machine, or run `sealserve certs rotate-issuing`.",
    )


def _find(connection: Connection, key_id: KeyId) -> StoredKey | None:
    with reading("keys"):
        if (row := _BY_ID.first(connection, key_id=key_id)) is None:
            return None
        # The ciphertext is bound to its own id, so the key of another release would decrypt too.
        check_wanted(KEYS, row, key_id=key_id)
        return StoredKey(KeyId(row["key_id"]), WrapperId(row["wrapper"]), row["format"], row["wrapped"])


def is_release_key(connection: Connection, key_id: KeyId) -> bool:
    """Return whether the keystore contains a release key with this id."""
    query = select(KEYS.c.key_id).where(KEYS.c.key_id == key_id, RELEASE_KEYS)
    return connection.execute(query).first() is not None


RELEASE_KEYS: Final = KEYS.c.format != ISSUING_FORMAT
"""The condition of a query for the rows of release keys."""


def every(connection: Connection) -> list[StoredKey]:
    """Return all stored keys, sorted by id.

    Raises:
        VerificationError: `broker.database-content` if a row has content that sealserve never writes.
    """
    return list(_read(connection, _columns().order_by(KEYS.c.key_id)))


def count(connection: Connection, wrapper: WrapperId) -> int:
    """Return the number of stored keys that a wrapper encrypted."""
    return connection.execute(select(func.count()).select_from(KEYS).where(KEYS.c.wrapper == wrapper)).scalar_one()


def _columns() -> Select[str, str, int, bytes]:
    return select(KEYS.c.key_id, KEYS.c.wrapper, KEYS.c.format, KEYS.c.wrapped)


# Built once, because each key release executes this statement.
_BY_ID: Final = Prepared(_columns().where(KEYS.c.key_id == bindparam("key_id")))


def _read(connection: Connection, query: Select[str, str, int, bytes]) -> Iterator[StoredKey]:
    with reading("keys"):
        for row in connection.execute(query).all():
            yield StoredKey(KeyId(row[0]), WrapperId(row[1]), row[2], row[3])


def _values(stored: StoredKey) -> dict[str, object]:
    return {"wrapper": stored.wrapper, "format": stored.format, "wrapped": stored.wrapped}
