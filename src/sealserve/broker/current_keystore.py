"""The keystore of a running broker, which opens it again after `sealserve broker rotate-master`.

A rotation encrypts the stored keys with a new master key and replaces the master key file. The broker notices it in two
ways: its files have changed (`Reloaded.poll`), or a stored key cannot be decrypted. The second way covers a request
that arrives between the two steps of the rotation.

The broker reads the passphrase of the master key again from its file. A passphrase that a person typed at the terminal
is not kept in memory, so such a broker must be restarted.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from sealserve.broker import stored_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError
from sealserve.broker.reloaded import Reloaded
from sealserve.broker.stored_key import StoredKey
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes


class KeySource(Protocol):
    """A keystore as the decision uses it."""

    def decrypt(self, stored: StoredKey) -> SecretBytes:
        """Return the decrypted key. See `sealserve.broker.keystore.Keystore.decrypt`."""


class CurrentKeystore(Reloaded[KeySource]):
    """The newest keystore that could be opened.

    Args:
        database: The database with the encrypted keys.
        reopen: Opens the keystore with the present files and settings.
        files: The files that determine the keystore: the master key, and the deployment file.

    Raises:
        SealserveError: The keystore cannot be opened the first time.
    """

    def __init__(self, database: Database, reopen: Callable[[], KeySource], *, files: Iterable[Path]) -> None:
        super().__init__(reopen, what="master key", files=files)
        self._database = database

    def decrypt(self, stored: StoredKey) -> SecretBytes:
        """Return the decrypted key.

        Raises:
            SealserveError: As `sealserve.broker.keystore.Keystore.decrypt`.
        """
        keystore = self.value
        try:
            return keystore.decrypt(stored)
        except SealserveError as error:
            if not _may_be_rotated(error):
                raise
            # Opening the keystore is expensive, so it is done only if its files have changed.
            if not self.replaced(keystore):
                raise
        # The row was read before the rotation or after it. A new transaction certainly returns the rotated row.
        with self._database.read() as connection:
            fresh = stored_key.find(connection, stored.key_id)
        return self.value.decrypt(fresh)


def _may_be_rotated(error: SealserveError) -> bool:
    return isinstance(error, KeyUnwrapError) or error.code == BrokerCode.KEYSTORE_UNKNOWN_WRAPPER
