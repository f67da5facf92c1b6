"""The interface for encrypting release keys, with a master key in a file or in a key service."""

from typing import Final, NewType, Protocol

from sealserve.errors import VerificationError
from sealserve.secret import SecretBytes

WrapperId = NewType("WrapperId", str)
"""The kind of a wrapper and the name of its key: ``transit:MOUNT/KEY``. It contains no secret."""

FILE: Final = WrapperId("file")
"""The id of the master key file."""

LONGEST_WRAPPER_ID: Final = 192
"""The maximum length of an id in characters."""


class KeyUnwrapError(VerificationError):
    """A stored key cannot be decrypted: the master key is wrong, or the database was changed."""

    code = "keystore.unwrap"


class KeyWrapper(Protocol):
    """Encrypts and decrypts keys with a wrapping key that never leaves the implementation."""

    @property
    def wrapper_id(self) -> WrapperId:
        """The id of the wrapping key, which the database stores with each key that it encrypted."""

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Return ``secret`` encrypted and bound to ``context``."""

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt a secret that was wrapped with the same ``context``.

        Raises:
            KeyUnwrapError: If ``wrapped`` was changed, or belongs to another context or master key.
        """
