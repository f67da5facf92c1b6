"""The seam between a relying party, such as the broker, and the kinds of evidence that it accepts.

Each step of a verification returns an object that has the next step as its only method, so no step can be left out:

    Verifier.read() -> Evidence.screen() -> ScreenedEvidence.endorse() -> EndorsedEvidence.verify() -> Claims

The names are those of RATS (RFC 9334): evidence, verifier, endorsement (Intel says collateral), claims, reference
values. `sealserve.sgx.verifier` implements these protocols for SGX, with genuine and with simulated processors.
"""

from datetime import datetime
from typing import Protocol

from sealserve.attestation.claims import Claims, Measurement
from sealserve.terms import PlatformKind


class EndorsedEvidence(Protocol):
    """Evidence with the vendor's collateral for its platform. Neither is verified yet."""

    def verify(self, *, now: datetime, minimum_evaluation_number: int) -> Claims:
        """Verify the evidence against the collateral, up to the trusted root.

        Args:
            now: The time of verification, with a time zone.
            minimum_evaluation_number: The highest evaluation number of collateral seen so far.

        Raises:
            VerificationError: The evidence or the collateral is not genuine, or is not valid at ``now``.
        """


class ScreenedEvidence(Protocol):
    """Evidence that leads to a trusted root: the broker may fetch collateral for it."""

    @property
    def root(self) -> str:
        """SHA-256 of the trusted root certificate, as hex."""

    def endorse(self) -> EndorsedEvidence:
        """Fetch the vendor's collateral.

        Raises:
            UnavailableError: The vendor's service is not available.
            VerificationError: The service's answer is malformed.
        """


class Evidence(Protocol):
    """Evidence of a known form. Nothing in it is verified: this is what the attester says."""

    @property
    def measurement(self) -> Measurement:
        """The measurement that the enclave claims to have."""

    @property
    def signer(self) -> bytes:
        """The digest of the key that signed the enclave, as the enclave claims it. SGX calls it MRSIGNER."""

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the enclave chose."""

    def screen(self, platform: PlatformKind) -> ScreenedEvidence:
        """Do all checks that need no network, so that unauthenticated clients cannot trigger collateral downloads.

        Args:
            platform: The kind of platform that the evidence must come from.

        Raises:
            UnavailableError: `broker.no-trust-anchor`: No root is trusted for this kind of platform.
            VerificationError: The evidence comes from another kind of platform, or does not lead to the trusted root.
        """


class Verifier(Protocol):
    """Reads evidence, and leads it through the steps above."""

    def read(self, quote: bytes) -> Evidence:
        """Return the evidence in a quote of exactly this length.

        Raises:
            VerificationError: The bytes are not evidence of a known form.
        """


class ReferenceValues(Protocol):
    """What one enclave of a release must look like. The owner computes the values, and the broker stores them."""

    @property
    def measurement(self) -> Measurement:
        """The enclave's measurement."""

    @property
    def signer(self) -> bytes:
        """The digest of the key that signed the enclave."""

    def to_json(self) -> str:
        """Return the values as JSON, the same for equal values. `Claims.check_reference` reads this form."""
