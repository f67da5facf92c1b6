"""The conversation between a user and a service: a nonce, and the evidence for it. Both sides, without sockets.

The user connects with TLS and notes the certificate of the connection. She must not send anything else before the
verification succeeds.

1. User to service: a nonce of 32 random bytes, which she uses once.
2. Service to user: a `ServiceEvidence` document.

gRPC carries the nonce and the document as bytes. HTTP carries the nonce in base64url in the query of
``/.well-known/sealserve/evidence?nonce=``, and the document as the body.

The quote, the collateral and the attestation result are the same for all users. Only the signature of the nonce is new,
so a request costs one signature, and requests cannot exhaust the quoting service.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.attestation.keyset import Keyset
from sealserve.attestation.session_binding import NONCE_SIZE, new_nonce, signed_nonce
from sealserve.attestation.strict_document import SignedContent
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url
from sealserve.attested.codes import AttestedCode
from sealserve.attested.evidence import EvidenceBundle, ServiceEvidence
from sealserve.attested.user_policy import UserPolicy
from sealserve.attested.verification import VerifiedService, verify_service
from sealserve.serving_interface import EVIDENCE_PARAMETER, EVIDENCE_PATH

PATH: Final = EVIDENCE_PATH
"""The path of the HTTP resource."""
PARAMETER: Final = EVIDENCE_PARAMETER
"""The name of the query parameter with the nonce in base64url."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceService:
    """The service's side: answers any number of users. A renewal replaces it with a new value.

    Args:
        keyset: The enclave's keyset.
        identity: The identity key.
        quote: A quote with the report data `sealserve.attestation.session_binding.service_report_data`.
        collateral: The collateral from the broker.
        attestation_result: The token from the broker.
        statement: The release statement, or `None`.
    """

    keyset: Keyset
    identity: Ed25519PrivateKey = field(repr=False)
    quote: bytes = field(repr=False)
    collateral: Mapping[str, str] = field(repr=False)
    attestation_result: str | None = field(repr=False)
    statement: SignedContent | None = field(repr=False)

    def answer(self, nonce: bytes) -> bytes:
        """Return the evidence for a user's nonce.

        The signature proves that the holder of the identity key runs now. It covers the TLS key, so that it is useless
        for a connection that ends at another key.

        Raises:
            InputError: `evidence.nonce` if the nonce does not have 32 bytes.
        """
        if len(nonce) != NONCE_SIZE:
            raise AttestedCode.EVIDENCE_NONCE.error(
                f"The request for evidence is invalid: expected a nonce of {NONCE_SIZE} bytes, got {len(nonce)}."
            )
        return ServiceEvidence(
            keyset=self.keyset.to_bytes(),
            quote=self.quote,
            collateral=dict(self.collateral),
            attestation_result=self.attestation_result,
            statement=self.statement,
            nonce_signature=self.identity.sign(signed_nonce(nonce=nonce, tls_key_digest=self.keyset.tls_key_digest)),
        ).to_bytes()


def parse_nonce(text: str) -> bytes:
    """Return the nonce in the query of an HTTP request.

    Raises:
        InputError: `evidence.nonce` if the text is not 32 bytes in base64url.
    """
    try:
        nonce = decode_base64url(text[: 2 * NONCE_SIZE])
    except ValueError as error:
        raise AttestedCode.EVIDENCE_NONCE.error(
            "The request for evidence is invalid: expected a nonce in base64url without padding."
        ) from error
    if len(nonce) != NONCE_SIZE:
        raise AttestedCode.EVIDENCE_NONCE.error(
            f"The request for evidence is invalid: expected a nonce of {NONCE_SIZE} bytes, got {len(nonce)}."
        )
    return nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRequest:
    """The user's side of one connection. Use it once: a nonce that was used before proves nothing.

    Args:
        nonce: 32 random bytes.
    """

    nonce: bytes = field(default_factory=new_nonce)

    @property
    def query(self) -> str:
        """The query of the HTTP request."""
        return f"{PARAMETER}={encode_base64url(self.nonce)}"

    def receive(self, content: bytes, *, certificate: bytes) -> "PresentedService":
        """Process the answer of the service. It proves nothing yet: call `PresentedService.verify`.

        Args:
            content: The document.
            certificate: The certificate of the connection that the answer arrived on, DER.

        Raises:
            VerificationError: `document.*` if the document is malformed.
        """
        return PresentedService(evidence=ServiceEvidence.parse(content), nonce=self.nonce, certificate=certificate)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedService:
    """Evidence for a nonce on a connection. None of it is verified.

    Args:
        evidence: The evidence.
        nonce: The user's nonce.
        certificate: The certificate of the connection, DER.
    """

    evidence: ServiceEvidence
    nonce: bytes
    certificate: bytes = field(repr=False)

    @classmethod
    def of_bundle(cls, bundle: EvidenceBundle) -> "PresentedService":
        """Return the content of a bundle, for a verification without a network."""
        return cls(evidence=bundle.evidence, nonce=bundle.nonce, certificate=bundle.certificate)

    def verify(self, policy: UserPolicy, *, now: datetime) -> VerifiedService:
        """Perform the six steps. See `sealserve.attested.verification.verify_service`."""
        return verify_service(self.evidence, nonce=self.nonce, certificate=self.certificate, policy=policy, now=now)

    def bundle(self, *, address: str, saved: datetime) -> EvidenceBundle:
        """Return a bundle for a later verification.

        Args:
            address: The address of the connection.
            saved: The current time, with a time zone.
        """
        return EvidenceBundle(
            evidence=self.evidence,
            nonce=self.nonce,
            certificate=self.certificate,
            address=address,
            saved=int(saved.timestamp()),
        )
