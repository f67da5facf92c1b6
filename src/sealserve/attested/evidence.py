"""The evidence of a service: what its enclave shows to a user who asks, and the bundle that a user keeps.

`docs/reference/attestation-protocol.md` specifies the documents.
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from sealserve.attestation.attest_messages import CollateralMembers, KeysetBytes, Nonce, QuoteBytes, Token
from sealserve.attestation.strict_document import Base64Url, SignedContent, StrictDocument

MAXIMUM_BUNDLE: Final = 64 * 2**10
"""Maximum size in bytes of an evidence bundle."""
_SIGNATURE_SIZE: Final = 64
_LARGEST_TIME: Final = 253_402_300_799  # the end of the year 9999


class ServiceEvidence(StrictDocument):
    """The answer of a service to a nonce. Nothing in it is verified.

    Attributes:
        type: The kind of document.
        version: The version of the format.
        keyset: The exact bytes of the keyset.
        quote: A quote that covers the keyset.
        collateral: The vendor's collateral for the quote's platform.
        attestation_result: The token of the owner's broker, or `None`.
        statement: The release statement with the owner's signature, or `None`.
        nonce_signature: The identity key's signature of the user's nonce, 64 bytes. See
            `sealserve.attestation.session_binding.signed_nonce`.
    """

    what: ClassVar[str] = "evidence"
    limit: ClassVar[int] = 56 * 2**10

    type: Literal["sealserve.evidence"] = "sealserve.evidence"
    version: Literal[1] = 1
    keyset: KeysetBytes
    quote: QuoteBytes
    collateral: CollateralMembers
    attestation_result: Token | None
    statement: SignedContent | None
    nonce_signature: Annotated[Base64Url, Field(min_length=_SIGNATURE_SIZE, max_length=_SIGNATURE_SIZE)]


class EvidenceBundle(StrictDocument):
    """Evidence with everything that is necessary to verify it again later, without a network.

    It convinces only the user who chose the nonce that the enclave was running at that time. Other people can check
    everything except the freshness, because they do not know when the nonce was chosen.

    Attributes:
        type: The kind of document.
        version: The version of the format.
        evidence: The evidence.
        nonce: The user's nonce.
        certificate: The certificate of the TLS connection, DER.
        address: The address that the user connected to. It is a note, and is not verified.
        saved: The user's time of the verification, in seconds since 1970-01-01 UTC. It is a note, and is not verified.
    """

    what: ClassVar[str] = "evidence bundle"
    limit: ClassVar[int] = MAXIMUM_BUNDLE

    type: Literal["sealserve.evidence-bundle"] = "sealserve.evidence-bundle"
    version: Literal[1] = 1
    evidence: ServiceEvidence
    nonce: Nonce
    certificate: Annotated[Base64Url, Field(min_length=1, max_length=3072)]
    address: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,300}$")]
    saved: Annotated[int, Field(ge=0, le=_LARGEST_TIME)]
