"""The seam behind which the key is that encrypts release keys: in a file, or in a key management service."""

from typing import Final, Protocol

from sealserve.errors import VerificationError
from sealserve.secret import SecretBytes

TRANSIT_PREFIX: Final = b"vault:v"
"""What each ciphertext of the transit engine begins with, of Vault and of OpenBao."""


class KeyUnwrapError(VerificationError):
    """A stored key does not decrypt: another master key, or a changed database."""

    code = "keystore.unwrap"


class KeyWrapper(Protocol):
    """Encrypts keys under one that stays where it is."""

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Return ``secret``, encrypted and bound to ``context``."""

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Return what was wrapped for the same ``context``.

        Raises:
            KeyUnwrapError: ``wrapped`` was changed, or belongs to another context or master key.
        """

    def wrapped_here(self, wrapped: bytes) -> bool:
        """Return whether ``wrapped`` has the form that this wrapper gives."""
