"""The identity of a running enclave: its keys, its current certificate, and the evidence for users.

The attested model server uses it. A renewal replaces the certificate and the evidence, and keeps the keys, because
they are part of the keyset.
"""

import threading
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.attested.evidence_conversation import EvidenceService
from sealserve.attested.receipt_signer import FindSigner, ReceiptSigner, VersionSigner
from sealserve.pki.signing import private_pem
from sealserve.secret import SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Granted:
    """What a broker granted, and a renewal replaces."""

    certificate_chain: bytes
    service: EvidenceService = field(repr=False)


class ServiceIdentity:
    """The identity of a running enclave. Many threads may use it, and one may renew it, at the same time.

    Args:
        tls_key: The TLS key, whose public key is in the keyset.
        certificate_chain: The certificate for the TLS key and its issuers, PEM, leaf first.
        service: The evidence for users, with the keyset and the identity key.
        find_signer: See `ReceiptSigner`.
    """

    def __init__(
        self,
        *,
        tls_key: ec.EllipticCurvePrivateKey,
        certificate_chain: bytes,
        service: EvidenceService,
        find_signer: FindSigner | None = None,
    ) -> None:
        self._tls_key = tls_key
        self._keyset = service.keyset
        self._receipts = ReceiptSigner(service.keyset, service.identity, find_signer)
        self._granted = _Granted(certificate_chain=certificate_chain, service=service)
        self._renewals = 0
        self._failed_renewals = 0
        self._renewing = threading.Lock()

    def __repr__(self) -> str:
        return f"ServiceIdentity(keyset={self._keyset.digest.hex()}, renewals={self._renewals})"

    @property
    def release_id(self) -> str:
        """The release that the enclave serves."""
        return self._keyset.release_id

    @property
    def renewals(self) -> int:
        """The number of renewals."""
        return self._renewals

    @property
    def failed_renewals(self) -> int:
        """The number of attempts to renew the certificate that failed."""
        return self._failed_renewals

    @property
    def certificate_chain(self) -> bytes:
        """The current certificate for the TLS key and its issuers, PEM, leaf first."""
        return self._granted.certificate_chain

    def private_key_pem(self) -> SecretBytes:
        """Return a copy of the TLS key, PEM. The caller wipes it when it no longer needs it."""
        return private_pem(self._tls_key)

    def renew(self, *, certificate_chain: bytes, service: EvidenceService) -> None:
        """Use a new certificate and new evidence for the same keys. The server notices it at the next handshake.

        Args:
            certificate_chain: See the class.
            service: See the class.

        Raises:
            ValueError: The evidence is for another keyset.
        """
        if service.keyset != self._keyset:
            raise ValueError("the evidence is for another keyset")
        with self._renewing:
            self._granted = _Granted(certificate_chain=certificate_chain, service=service)
            self._renewals += 1  # last, so that a reader of the new number gets the new certificate

    def renewal_failed(self) -> None:
        """Count an attempt to renew the certificate that failed."""
        with self._renewing:
            self._failed_renewals += 1

    def evidence(self, nonce: bytes) -> bytes:
        """Return the evidence for a user's nonce. See `EvidenceService.answer`."""
        return self._granted.service.answer(nonce)

    def receipt_signer(self, *, model: str, model_version: str, model_sha256: str) -> VersionSigner:
        """Return the signer of the receipts for a version. See `ReceiptSigner.for_version`."""
        return self._receipts.for_version(model=model, model_version=model_version, model_sha256=model_sha256)
