"""Signatures of indexes: Ed25519 over the exact bytes, with a prefix for the kind of index.

The prefix separates the documents that one key signs: the signature of a release index is never valid for another kind
of document.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealserve.sealing.codes import SealingCode

RELEASE_DOMAIN: Final = b"sealserve release index v1\n"
ENCLAVE_DOMAIN: Final = b"sealserve enclave index v1\n"
SIGNATURE_SIZE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedIndex:
    """An index with a verified signature: its exact bytes, and their SHA-256 in hexadecimal."""

    content: bytes = field(repr=False)
    sha256: str


def sign_index(domain: bytes, content: bytes, signer: Ed25519PrivateKey) -> bytes:
    """Return the signature of an index, 64 bytes.

    Args:
        domain: The kind of index: `RELEASE_DOMAIN` or `ENCLAVE_DOMAIN`.
        content: The exact bytes of the index.
        signer: The owner's private key.
    """
    return signer.sign(domain + content)


def verify_index(
    domain: bytes, content: bytes, signature: bytes, owner_key: Ed25519PublicKey, *, name: str
) -> VerifiedIndex:
    """Verify the signature of an index.

    Args:
        domain: The expected kind of index.
        content: The exact bytes of the index.
        signature: The content of the ``.sig`` file.
        owner_key: The key that must have signed the index.
        name: The index's name in errors.

    Raises:
        VerificationError: `index.bad-signature` if the key did not sign these bytes as this kind of index.
    """
    try:
        owner_key.verify(signature, domain + content)
    except InvalidSignature as error:
        size = f" (expected {SIGNATURE_SIZE} bytes, got {len(signature)})" if len(signature) != SIGNATURE_SIZE else ""
        raise SealingCode.INDEX_BAD_SIGNATURE.error(
            f"The signature of {name} does not verify with the owner's key "
            f"{owner_key.public_bytes_raw().hex()[:16]}...{size}.",
            hint="Check that this is the owner's key, and copy the folder again: the index may be changed.",
        ) from error
    return VerifiedIndex(content=content, sha256=hashlib.sha256(content).hexdigest())
