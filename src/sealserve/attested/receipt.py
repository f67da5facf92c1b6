"""Receipts: the enclave's signed statement that it computed a response from a request.

A receipt is a JSON web signature (JWS) in compact form: header, claims and signature, each in base64url, separated by
dots. The identity key signs it. The header is fixed by this key. Therefore a verifier does not parse the header, but
compares it with the only possible header.

Source: RFC 7515 section 3.1 (compact form); RFC 8037 (Ed25519 in JWS); RFC 7638 (thumbprint); RFC 8725 section 3.11
(``typ``).
"""

import hashlib
import hmac
from typing import Annotated, ClassVar, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints

from sealserve.attestation.keyset import Keyset
from sealserve.attestation.strict_document import LARGEST_INTEGER, StrictDocument
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url
from sealserve.attested.codes import AttestedCode
from sealserve.attested.release_statement import ReleaseStatement
from sealserve.canonical_document import Sha256, canonical_json
from sealserve.names import Name

MEDIA_TYPE: Final = "sealserve-receipt+jws"
MAXIMUM_RECEIPT: Final = 4096
"""Maximum size in bytes of a receipt. gRPC limits all metadata of an answer to 8 KiB by default."""
_PARTS: Final = 3


class ReceiptClaims(StrictDocument):
    """The claims of a receipt.

    Attributes:
        type: The kind of document.
        version: The version of the format.
        keyset_sha256: The keyset whose identity key signs the receipt.
        release_id: The release.
        model: The name of the model.
        model_version: The version as decimal digits.
        model_sha256: The digest of the model's files, as in the release statement.
        request_sha256: SHA-256 of the request: the gRPC message, or the body of the HTTP request.
        response_sha256: SHA-256 of the response: the gRPC message, or the body of the HTTP response.
        sequence: The number of the receipt. The enclave counts its receipts from 0 and never repeats a number.
    """

    what: ClassVar[str] = "receipt"
    limit: ClassVar[int] = 2048

    type: Literal["sealserve.receipt"] = "sealserve.receipt"
    version: Literal[1] = 1
    keyset_sha256: Sha256
    release_id: Sha256
    model: Name
    model_version: Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,18})$")]
    model_sha256: Sha256
    request_sha256: Sha256
    response_sha256: Sha256
    sequence: Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]


def sign_receipt(claims: ReceiptClaims, identity: Ed25519PrivateKey) -> str:
    """Return a receipt. The enclave gets the same bytes from `sealserve.attested.receipt_signer`, in less time.

    Args:
        claims: The claims.
        identity: The enclave's identity key.
    """
    signed = f"{receipt_header(identity.public_key())}.{encode_base64url(claims.to_bytes())}"
    return f"{signed}.{encode_base64url(identity.sign(signed.encode()))}"


def verify_receipt(
    receipt: str, *, request: bytes, response: bytes, keyset: Keyset, statement: ReleaseStatement | None
) -> ReceiptClaims:
    """Verify a receipt and return its claims.

    1. The size is limited, and the receipt has three parts in canonical base64url.
    2. The header is the header for the identity key of the verified keyset. It cannot select another key or algorithm.
    3. The identity key signed header and claims.
    4. Only then are the claims parsed.
    5. They name this keyset and its release.
    6. They contain the digests of the user's own request and response.
    7. The model is in the release statement, with the same digest. Without a statement, the user trusts the enclave's
       code for the digest.

    A receipt does not contain a time, because time inside an enclave comes from the host.

    Args:
        receipt: The receipt.
        request: The request's bytes, as sent.
        response: The response's bytes, as received.
        keyset: The keyset of a verified service, from `sealserve.attested.verification.VerifiedService`.
        statement: The verified release statement of the service, or `None`.

    Raises:
        VerificationError: A step fails: `receipt.size`, `receipt.form` or `receipt.encoding` (1), `receipt.header` (2),
            `receipt.signature` (3), `document.*` (4), `receipt.enclave` (5), `receipt.request` or `receipt.response`
            (6), `receipt.model` (7).
    """
    claims = _open(receipt, keyset)  # (1) to (4)
    if claims.keyset_sha256 != keyset.digest.hex() or claims.release_id != keyset.release_id:  # (5)
        raise AttestedCode.RECEIPT_ENCLAVE.error(
            f"The receipt is from another enclave: expected keyset {keyset.digest.hex()} of release "
            f"{keyset.release_id}, got {claims.keyset_sha256} of release {claims.release_id}."
        )
    for name, content, expected, code in (  # (6)
        ("request", request, claims.request_sha256, AttestedCode.RECEIPT_REQUEST),
        ("response", response, claims.response_sha256, AttestedCode.RECEIPT_RESPONSE),
    ):
        found = hashlib.sha256(content).hexdigest()
        if not hmac.compare_digest(found, expected):
            raise code.error(f"The receipt is for another {name}: expected SHA-256 {expected}, got {found}.")
    if statement is not None:  # (7)
        model = statement.model(claims.model, claims.model_version)
        if model is None or model.sha256 != claims.model_sha256:
            raise AttestedCode.RECEIPT_MODEL.error(
                f"The receipt names a model that the release statement does not list: {claims.model} version "
                f"{claims.model_version} with the digest {claims.model_sha256}."
            )
    return claims


def _open(receipt: str, keyset: Keyset) -> ReceiptClaims:
    if not 0 < len(receipt) <= MAXIMUM_RECEIPT:  # (1)
        raise AttestedCode.RECEIPT_SIZE.error(
            f"The receipt has an invalid size: expected 1 to {MAXIMUM_RECEIPT} characters, got {len(receipt)}."
        )
    parts = receipt.split(".")
    if len(parts) != _PARTS:
        raise AttestedCode.RECEIPT_FORM.error(
            f"The receipt is malformed: expected three parts separated by dots, got {len(parts)}."
        )
    try:
        _, content, signature = (decode_base64url(part) for part in parts)
    except ValueError as error:
        raise AttestedCode.RECEIPT_ENCODING.error(
            f"A part of the receipt is not base64url without padding: {error}."
        ) from error
    if not hmac.compare_digest(parts[0].encode(), receipt_header(keyset.identity).encode()):  # (2)
        raise AttestedCode.RECEIPT_HEADER.error(
            "The header of the receipt is not the header for the identity key of the evidence.",
            hint="Use the evidence of the replica that answered the request.",
        )
    try:  # (3)
        keyset.identity.verify(signature, receipt.rpartition(".")[0].encode())
    except InvalidSignature as error:
        raise AttestedCode.RECEIPT_SIGNATURE.error(
            "The signature of the receipt is invalid: the identity key did not sign it."
        ) from error
    return ReceiptClaims.parse(content)  # (4)


def receipt_header(identity: Ed25519PublicKey) -> str:
    """Return the header of the receipts that an identity key signs, in base64url."""
    public = {"crv": "Ed25519", "kty": "OKP", "x": encode_base64url(identity.public_bytes_raw())}
    key_id = encode_base64url(hashlib.sha256(canonical_json(public)).digest())
    return encode_base64url(canonical_json({"alg": "EdDSA", "kid": key_id, "typ": MEDIA_TYPE}))
