"""The interface for encrypting release keys, with a master key in a file or in a key management service."""

from typing import Final, Protocol

from sealserve.errors import VerificationError
from sealserve.secret import SecretBytes

TRANSIT_PREFIX: Final = b"vault:v"
"""The prefix of each ciphertext of the transit engine of Vault and OpenBao."""


class KeyUnwrapError(VerificationError):
    """A stored key cannot be decrypted: the master key is wrong, or the database was changed."""

    code = "keystore.unwrap"


class KeyWrapper(Protocol):
    """Encrypts and decrypts keys with a wrapping key that never leaves the implementation."""

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Return ``secret`` encrypted and bound to ``context``."""

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt a secret that was wrapped with the same ``context``.

        Raises:
            KeyUnwrapError: If ``wrapped`` was changed, or belongs to another context or master key.
        """

    def wrapped_here(self, wrapped: bytes) -> bool:
        """Return whether ``wrapped`` has the format of this wrapper's ciphertexts."""
