"""The interface between a relying party, such as the broker, and the kinds of evidence that it accepts.

Each step of a verification returns an object whose only method is the next step, so no step can be omitted:

    Verifier.read() -> Evidence.screen() -> ScreenedEvidence.endorse() -> EndorsedEvidence.verify() -> Claims

The names come from RATS (RFC 9334): evidence, verifier, endorsement (Intel's term is collateral), claims, reference
values. `sealserve.sgx.verifier` implements these protocols for SGX, with genuine and with simulated processors.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

from sealserve.attestation.claims import Claims, Measurement
from sealserve.terms import PlatformKind

SERIES_LENGTH: Final = 64
"""The longest name of a series of collateral: the length of a SHA-256 digest as hex."""


class EndorsedEvidence(Protocol):
    """Evidence together with the vendor's collateral for its platform. Neither is verified yet."""

    @property
    def collateral_members(self) -> Mapping[str, str]:
        """The collateral as texts by name, for another verifier. The kind of evidence defines the names."""

    def verify(self, *, now: datetime, minimum_evaluation_number: int) -> Claims:
        """Verify the evidence against the collateral, up to the trusted root.

        Args:
            now: The time of verification, with a time zone.
            minimum_evaluation_number: The highest evaluation number of collateral seen so far.

        Raises:
            VerificationError: The evidence or the collateral is not genuine, or is not valid at ``now``.
        """


class ScreenedEvidence(Protocol):
    """Evidence whose certificates end at a trusted root. The broker may now fetch collateral for it."""

    @property
    def series(self) -> str:
        """The series of collateral: SHA-256 of the trusted root certificate, with the update channel before a colon.

        Evaluation numbers are compared only within a series, because the early channel is ahead of the standard channel
        after each TCB recovery.
        """

    def endorse_from_cache(self) -> EndorsedEvidence | None:
        """Return the evidence with cached collateral, or `None` if `endorse` would have to wait for a download."""

    def endorse(self) -> EndorsedEvidence:
        """Fetch the vendor's collateral. This can take as long as the vendor's service is slow.

        Raises:
            UnavailableError: The vendor's service is unavailable.
            VerificationError: The service's reply is malformed.
        """


class Evidence(Protocol):
    """Parsed evidence of a known format. Its content is unverified and comes from the attester."""

    @property
    def measurement(self) -> Measurement:
        """The measurement that the enclave claims to have."""

    @property
    def product(self) -> Measurement:
        """The enclave's signer and product in the form of a measurement, as the enclave claims them."""

    @property
    def signer(self) -> bytes:
        """The digest of the key that signed the enclave, as the enclave claims it. SGX calls it MRSIGNER."""

    @property
    def report_data(self) -> bytes:
        """The 64 bytes of report data, chosen by the enclave."""

    def screen(self, platform: PlatformKind) -> ScreenedEvidence:
        """Run all checks that need no network, so that unauthenticated clients cannot trigger collateral downloads.

        Args:
            platform: The kind of platform that the evidence must come from.

        Raises:
            UnavailableError: `broker.no-trust-anchor` if no root is configured for this kind of platform.
            VerificationError: The evidence is from another kind of platform, or does not end at the trusted root.
        """


class Verifier(Protocol):
    """Parses evidence. The parsed evidence provides the next step of the verification."""

    def read(self, quote: bytes) -> Evidence:
        """Parse a quote. The quote must have exactly the length of ``quote``.

        Raises:
            VerificationError: The bytes are not evidence of a known format.
        """


class ReferenceValues(Protocol):
    """The expected properties of one enclave of a release. The owner computes them, and the broker stores them."""

    @property
    def measurement(self) -> Measurement:
        """The enclave's measurement."""

    @property
    def signer(self) -> bytes:
        """The digest of the key that signed the enclave."""

    def to_json(self) -> str:
        """Return the values as JSON that `Claims.check_reference` parses. Equal values have equal JSON."""
