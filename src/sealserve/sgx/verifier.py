"""The verifier of SGX evidence: `sealserve.attestation.evidence` implemented for SGX, genuine and simulated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from sealserve.attestation.claims import Measurement
from sealserve.attestation.codes import AttestationCode
from sealserve.errors import VerificationError
from sealserve.sgx.appraisal import ExaminedQuote, VerifiedQuote
from sealserve.sgx.certificate_chain import common_name
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import PckChain
from sealserve.sgx.quote import Quote
from sealserve.sgx.trust_anchor import INTEL, SIMULATED, TrustAnchor
from sealserve.terms import PlatformKind


class CollateralSource(Protocol):
    """A source of collateral: `sealserve.sgx.pcs.PcsClient`, or a replacement in tests."""

    def collateral_for(self, pck: PckChain) -> Collateral:
        """Return the collateral for the platform of a PCK certificate."""

    def forget(self) -> None:
        """Empty the cache: the collateral in it is not valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedVendor:
    """A processor vendor: the root of its certificates, and the source of its collateral."""

    anchor: TrustAnchor
    collateral: CollateralSource


class SgxVerifier:
    """Reads and verifies SGX quotes. Several threads may use it at once.

    Args:
        vendors: The trusted vendor for each kind of platform.
    """

    def __init__(self, vendors: Mapping[PlatformKind, TrustedVendor]) -> None:
        self._vendors = dict(vendors)

    def read(self, quote: bytes) -> "SgxEvidence":
        """Parse a quote of exactly this length; see `Quote.parse`."""
        return SgxEvidence(raw=quote, quote=Quote.parse(quote), vendors=self._vendors)


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxEvidence:
    """A parsed quote. Nothing in it is verified."""

    raw: bytes
    quote: Quote
    vendors: Mapping[PlatformKind, TrustedVendor] = field(repr=False)

    @property
    def measurement(self) -> Measurement:
        """The MRENCLAVE in the report."""
        return self.quote.report.mr_enclave

    @property
    def signer(self) -> bytes:
        """The MRSIGNER in the report."""
        return self.quote.report.mr_signer

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the enclave chose."""
        return self.quote.report.report_data

    def screen(self, platform: PlatformKind) -> "ScreenedQuote":
        """Check the kind of platform, debug mode and the PCK chain.

        Raises:
            UnavailableError: `broker.no-trust-anchor`: No root is trusted for this kind of platform.
            VerificationError: `policy.simulated-quote`, `policy.platform-kind`: The quote comes from another kind of
                platform.
            VerificationError: See `ExaminedQuote`.
        """
        # Which root must the chain end at? The owner's mark of the release decides, never the quote.
        vendor = self.vendors.get(platform)
        if vendor is None or vendor.anchor.simulated != (platform is PlatformKind.SIMULATED):
            raise AttestationCode.BROKER_NO_TRUST_ANCHOR.error(
                f"The broker has no trust anchor for {platform} releases.",
                hint="Start it with one; what it trusts is chosen at its start.",
            )
        # A root of the other kind gets an error of its own, because its cause is a mistake more often than an attack.
        pck = PckChain.parse(self.quote.pck_chain_pem)
        root = common_name(pck.root)
        if root in {INTEL.root, SIMULATED.root}:
            check_platform_kind(simulated_quote=root == SIMULATED.root, release=platform)
        # No debug mode, and a PCK chain up to exactly that root.
        examined = ExaminedQuote(raw=self.raw, quote=self.quote, pck=pck, anchor=vendor.anchor)
        return ScreenedQuote(examined=examined, source=vendor.collateral)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedQuote:
    """A quote whose PCK chain ends at the trusted root."""

    examined: ExaminedQuote
    source: CollateralSource

    @property
    def root(self) -> str:
        """SHA-256 of the trusted root certificate, as hex."""
        return self.examined.anchor.fingerprint

    def endorse(self) -> "EndorsedQuote":
        """Fetch the collateral of the quote's platform."""
        collateral = self.source.collateral_for(self.examined.pck)
        return EndorsedQuote(examined=self.examined, source=self.source, collateral=collateral)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndorsedQuote:
    """A quote with the collateral of its platform. Neither is verified."""

    examined: ExaminedQuote
    source: CollateralSource
    collateral: Collateral

    def verify(self, *, now: datetime, minimum_evaluation_number: int) -> VerifiedQuote:
        """Verify the quote against the collateral; see `ExaminedQuote.verify`.

        Raises:
            VerificationError: A step fails. If the collateral is the cause, it is fetched again for the next quote.
        """
        try:
            return self.examined.verify(self.collateral, now=now, minimum_evaluation_number=minimum_evaluation_number)
        except VerificationError as error:
            if error.code.startswith("collateral."):
                self.source.forget()
            raise


def check_platform_kind(*, simulated_quote: bool, release: PlatformKind) -> None:
    """Refuse a quote from the wrong kind of platform.

    Raises:
        VerificationError: `policy.simulated-quote`: The release is for SGX, the quote is simulated.
        VerificationError: `policy.platform-kind`: The release is simulated, the quote is not.
    """
    if simulated_quote and release is PlatformKind.SGX:
        raise SgxCode.POLICY_SIMULATED_QUOTE.error(
            "The quote comes from a simulated platform, and the release is for SGX machines.",
            hint='Run the enclave on an SGX machine, or build a release with platform = "simulated".',
        )
    if not simulated_quote and release is PlatformKind.SIMULATED:
        raise SgxCode.POLICY_PLATFORM_KIND.error(
            "The quote comes from an SGX processor, and the release is marked as simulated.",
            hint='Build a release with platform = "sgx" for this machine.',
        )
