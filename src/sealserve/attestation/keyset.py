"""The keyset: the public keys that one running enclave created for itself.

The private keys never leave the enclave's process. A quote covers the SHA-256 of the keyset's exact bytes, and thereby
both keys. `sealserve.attestation.session_binding` states how.

- The **TLS key** ends the connections of users. The host and the owner do not have it.
- The **identity key** signs users' nonces and receipts.
"""

import hashlib
from typing import Annotated, ClassVar, Final, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from pydantic import AfterValidator

from sealserve.attestation.strict_document import Base64Url, StrictDocument
from sealserve.canonical_document import Sha256

IDENTITY_KEY_SIZE: Final = 32


def _identity(content: bytes) -> bytes:
    if len(content) != IDENTITY_KEY_SIZE:
        raise ValueError(f"expected an Ed25519 public key of {IDENTITY_KEY_SIZE} bytes")
    return content


class Keyset(StrictDocument):
    """The public keys of one running enclave.

    Attributes:
        type: The kind of document.
        version: The version of the format.
        identity_key: The Ed25519 public key, 32 bytes.
        release_id: The release that the enclave serves, from its measured environment.
        tls_key_sha256: SHA-256 of the SubjectPublicKeyInfo (DER) of the TLS key.
    """

    what: ClassVar[str] = "keyset"
    limit: ClassVar[int] = 1024

    type: Literal["sealserve.keyset"] = "sealserve.keyset"
    version: Literal[1] = 1
    identity_key: Annotated[Base64Url, AfterValidator(_identity)]
    release_id: Sha256
    tls_key_sha256: Sha256

    @classmethod
    def of_keys(cls, *, release_id: str, tls: ec.EllipticCurvePublicKey, identity: Ed25519PublicKey) -> "Keyset":
        """Return the keyset with two public keys.

        Args:
            release_id: The id of the release.
            tls: The TLS key, a P-256 key.
            identity: The identity key.
        """
        return cls(
            identity_key=identity.public_bytes_raw(), release_id=release_id, tls_key_sha256=spki_digest(tls).hex()
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the keyset's bytes."""
        return hashlib.sha256(self.to_bytes()).digest()

    @property
    def identity(self) -> Ed25519PublicKey:
        """The identity key."""
        return Ed25519PublicKey.from_public_bytes(self.identity_key)

    @property
    def tls_key_digest(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo of the TLS key."""
        return bytes.fromhex(self.tls_key_sha256)


def spki_digest(key: PublicKeyTypes) -> bytes:
    """Return SHA-256 of the SubjectPublicKeyInfo (DER) of a public key."""
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).digest()
