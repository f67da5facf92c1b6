"""Signatures over an index: Ed25519 over the exact bytes, with a prefix that says what kind of index it is.

The prefix keeps apart what one key signs: the signature of a release's index never passes for that of another document.
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
    """An index whose signature was verified: its exact bytes, and their SHA-256 in hexadecimal."""

    content: bytes = field(repr=False)
    sha256: str


def sign_index(domain: bytes, content: bytes, signer: Ed25519PrivateKey) -> bytes:
    """Return the signature of an index, 64 bytes.

    Args:
        domain: What kind of index it is: `RELEASE_DOMAIN` or `ENCLAVE_DOMAIN`.
        content: The exact bytes of the index.
        signer: The owner's key.
    """
    return signer.sign(domain + content)


def verify_index(
    domain: bytes, content: bytes, signature: bytes, owner_key: Ed25519PublicKey, *, name: str
) -> VerifiedIndex:
    """Verify the signature of an index.

    Args:
        domain: What kind of index it must be.
        content: The exact bytes of the index.
        signature: The content of its ``.sig`` file.
        owner_key: The key that must have signed it.
        name: What to call the index in errors.

    Raises:
        VerificationError: `index.bad-signature`: The key did not sign these bytes as this kind of index.
    """
    try:
        owner_key.verify(signature, domain + content)
    except InvalidSignature as error:
        size = f" (it has {len(signature)} bytes, not {SIGNATURE_SIZE})" if len(signature) != SIGNATURE_SIZE else ""
        raise SealingCode.INDEX_BAD_SIGNATURE.error(
            f"The signature of {name} does not verify under the owner's key "
            f"{owner_key.public_bytes_raw().hex()[:16]}...{size}.",
            hint="It was changed, or signed by another owner: check the key, and copy the folder again.",
        ) from error
    return VerifiedIndex(content=content, sha256=hashlib.sha256(content).hexdigest())
