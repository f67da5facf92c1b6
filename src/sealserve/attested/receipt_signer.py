"""The enclave's signer of receipts: the same bytes as from `receipt.sign_receipt`, in less time than a small inference.

The claims are canonical JSON, so their members are sorted by name. Only the two digests and the sequence number differ
between the receipts for a version of a model. The members before them are encoded once, by the general encoder.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.attestation.keyset import Keyset
from sealserve.attestation.strict_encoding import encode_base64url
from sealserve.attested.receipt import ReceiptClaims, receipt_header

Sign = Callable[[bytes], bytes]
"""Returns the Ed25519 signature of a message."""
FindSigner = Callable[[Ed25519PrivateKey], Sign]

_DIGEST_SIZE: Final = 32
_NO_DIGEST: Final = bytes(_DIGEST_SIZE).hex()
_ENCODED_TOGETHER: Final = 3
"""Bytes that base64 encodes together, to four characters."""


class ReceiptSigner:
    """Signs the receipts of one running enclave, with consecutive sequence numbers. Many threads may use it.

    Args:
        keyset: The enclave's keyset.
        identity: The enclave's identity key.
        find_signer: Returns a faster function that signs with the key. It is called for the first receipt. None for the
            key's own function.
    """

    def __init__(self, keyset: Keyset, identity: Ed25519PrivateKey, find_signer: FindSigner | None = None) -> None:
        self._keyset = keyset
        self._identity = identity
        self._find_signer = find_signer
        self._sequence = itertools.count()  # `next` of it is atomic

    @cached_property
    def _sign(self) -> Sign:
        return self._identity.sign if self._find_signer is None else self._find_signer(self._identity)

    def for_version(self, *, model: str, model_version: str, model_sha256: str) -> "VersionSigner":
        """Return the signer of the receipts for a version of a model. See `ReceiptClaims` for the arguments.

        Raises:
            ValueError: A receipt cannot contain an argument.
        """
        claims = ReceiptClaims(
            keyset_sha256=self._keyset.digest.hex(),
            release_id=self._keyset.release_id,
            model=model,
            model_version=model_version,
            model_sha256=model_sha256,
            request_sha256=_NO_DIGEST,
            response_sha256=_NO_DIGEST,
            sequence=0,
        )
        header = receipt_header(self._identity.public_key())
        return VersionSigner(header, claims.to_bytes().decode(), self._sequence, self._sign)


class VersionSigner:
    """Signs the receipts for one version of a model.

    Args:
        header: The header of the receipts, in base64url.
        claims: The canonical claims, with digests of zeros and the sequence number 0.
        sequence: The sequence numbers.
        sign: Signs with the identity key.
    """

    __slots__ = ("_beginning", "_encoded", "_end", "_sequence", "_sign")

    def __init__(self, header: str, claims: str, sequence: Iterator[int], sign: Sign) -> None:
        before, _, self._end = claims.partition(_claims_between(_NO_DIGEST, _NO_DIGEST, 0))
        whole = len(before) // _ENCODED_TOGETHER * _ENCODED_TOGETHER
        self._encoded = f"{header}.{encode_base64url(before[:whole].encode('ascii'))}"
        self._beginning = before[whole:]
        self._sequence = sequence
        self._sign = sign

    def __call__(self, request_sha256: bytes, response_sha256: bytes) -> str:
        """Return a receipt with the next sequence number.

        Args:
            request_sha256: SHA-256 of the request, 32 bytes.
            response_sha256: SHA-256 of the response, 32 bytes.

        Raises:
            ValueError: A digest has another size.
        """
        if len(request_sha256) != _DIGEST_SIZE or len(response_sha256) != _DIGEST_SIZE:
            raise ValueError(f"expected two digests of {_DIGEST_SIZE} bytes")
        between = _claims_between(request_sha256.hex(), response_sha256.hex(), next(self._sequence))
        signed = self._encoded + encode_base64url(f"{self._beginning}{between}{self._end}".encode())
        return f"{signed}.{encode_base64url(self._sign(signed.encode()))}"


def _claims_between(request_sha256: str, response_sha256: str, sequence: int) -> str:
    """Return the part of the canonical claims that differs between receipts."""
    return f'"request_sha256":"{request_sha256}","response_sha256":"{response_sha256}","sequence":{sequence}'
