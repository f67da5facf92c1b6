"""The verifier of SGX evidence: implements `sealserve.attestation.evidence` for genuine and simulated SGX."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from sealserve.attestation.claims import Measurement
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.evidence import SERIES_LENGTH
from sealserve.errors import VerificationError
from sealserve.sgx.appraisal import ExaminedQuote, VerifiedQuote
from sealserve.sgx.certificate_chain import common_name
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.known_chains import KNOWN_CHAINS
from sealserve.sgx.pck import PckChain
from sealserve.sgx.quote import Quote
from sealserve.sgx.reference_values import product_of
from sealserve.sgx.trust_anchor import INTEL, SIMULATED, TrustAnchor
from sealserve.terms import CollateralUpdate, PlatformKind


class CollateralSource(Protocol):
    """A source of collateral: `sealserve.sgx.pcs.PcsClient`, or a replacement in tests."""

    def cached_for(self, pck: PckChain) -> Collateral | None:
        """Return the collateral for the platform of a PCK certificate without waiting, or `None`."""

    def collateral_for(self, pck: PckChain) -> Collateral:
        """Return the collateral for the platform of a PCK certificate. It may wait for downloads."""

    def forget(self, pck: PckChain) -> None:
        """Download the collateral of this platform again for the next quote. Called when it is invalid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedVendor:
    """A processor vendor: the root of its certificates, the source of its collateral, and the update channel."""

    anchor: TrustAnchor
    collateral: CollateralSource
    update: CollateralUpdate = CollateralUpdate.STANDARD


class SgxVerifier:
    """Parses and verifies SGX quotes. Several threads may use it at the same time.

    Args:
        vendors: The trusted vendor for each kind of platform.
    """

    def __init__(self, vendors: Mapping[PlatformKind, TrustedVendor]) -> None:
        self._vendors = dict(vendors)

    def read(self, quote: bytes) -> "SgxEvidence":
        """Parse a quote of exactly this length. See `Quote.parse`."""
        return SgxEvidence(raw=quote, quote=Quote.parse(quote), vendors=self._vendors)


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxEvidence:
    """A parsed quote. None of its content is verified."""

    raw: bytes
    quote: Quote
    vendors: Mapping[PlatformKind, TrustedVendor] = field(repr=False)

    @property
    def measurement(self) -> Measurement:
        """The MRENCLAVE in the report."""
        return self.quote.report.mr_enclave

    @property
    def product(self) -> Measurement:
        """The signer and the product id in the report."""
        return product_of(self.quote.report.mr_signer, self.quote.report.isv_prod_id)

    @property
    def signer(self) -> bytes:
        """The MRSIGNER in the report."""
        return self.quote.report.mr_signer

    @property
    def report_data(self) -> bytes:
        """The 64 bytes of report data, chosen by the enclave."""
        return self.quote.report.report_data

    def screen(self, platform: PlatformKind) -> "ScreenedQuote":
        """Check the kind of platform, debug mode and the PCK certificate chain.

        Raises:
            UnavailableError: `broker.no-trust-anchor` if no root is configured for this kind of platform.
            VerificationError: `policy.simulated-quote` or `policy.platform-kind` if the quote is from another kind of
                platform.
            VerificationError: The errors of `ExaminedQuote`.
        """
        # Select the root by the platform kind that the owner gave the release, never by the quote.
        vendor = self.vendors.get(platform)
        if vendor is None or vendor.anchor.simulated != (platform is PlatformKind.SIMULATED):
            raise AttestationCode.BROKER_NO_TRUST_ANCHOR.error(
                f"The broker lacks a trust anchor for {platform} releases.",
                hint="Restart the broker with a trust anchor for this kind of platform.",
            )
        # A root of the other kind gets a separate error, because its usual cause is a mistake, not an attack.
        pck = KNOWN_CHAINS.parse(self.quote.pck_chain_pem)
        root = common_name(pck.root)
        if root in {INTEL.root, SIMULATED.root}:
            check_platform_kind(simulated_quote=root == SIMULATED.root, release=platform)
        # Reject debug mode, and require a PCK chain that ends at exactly that root.
        examined = ExaminedQuote(raw=self.raw, quote=self.quote, pck=pck, anchor=vendor.anchor)
        return ScreenedQuote(examined=examined, source=vendor.collateral, update=vendor.update)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedQuote:
    """A quote whose PCK chain ends at the trusted root."""

    examined: ExaminedQuote
    source: CollateralSource
    update: CollateralUpdate = CollateralUpdate.STANDARD

    @property
    def series(self) -> str:
        """SHA-256 of the root certificate, as hex. For the early channel: ``early:`` and the first 58 digits."""
        root = self.examined.anchor.fingerprint
        return root if self.update is CollateralUpdate.STANDARD else f"{self.update}:{root}"[:SERIES_LENGTH]

    def endorse_from_cache(self) -> "EndorsedQuote | None":
        """Return the quote with cached collateral, or `None` if a document must be downloaded first."""
        collateral = self.source.cached_for(self.examined.pck)
        if collateral is None:
            return None
        return EndorsedQuote(examined=self.examined, source=self.source, collateral=collateral)

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

    @property
    def collateral_members(self) -> Mapping[str, str]:
        """The members of dcap-qvl's ``QuoteCollateralV3``, with binary values in hexadecimal."""
        members: dict[str, str] = json.loads(self.collateral.to_json())
        return members

    def verify(self, *, now: datetime, minimum_evaluation_number: int) -> VerifiedQuote:
        """Verify the quote with the collateral. See `ExaminedQuote.verify`.

        Raises:
            VerificationError: A step fails. If the collateral is the cause, it is downloaded again for the next quote.
        """
        try:
            return self.examined.verify(self.collateral, now=now, minimum_evaluation_number=minimum_evaluation_number)
        except VerificationError as error:
            # The PCK certificate chain was checked before, so an error of a chain is an error of the collateral.
            if error.code.startswith(("collateral.", "certificate-chain.")):
                self.source.forget(self.examined.pck)
            raise


def check_platform_kind(*, simulated_quote: bool, release: PlatformKind) -> None:
    """Check that a quote is from the kind of platform that the release requires.

    Raises:
        VerificationError: `policy.simulated-quote` if the release is for SGX but the quote is simulated.
        VerificationError: `policy.platform-kind` if the release is simulated but the quote is genuine.
    """
    if simulated_quote and release is PlatformKind.SGX:
        raise SgxCode.POLICY_SIMULATED_QUOTE.error(
            "The quote comes from a simulated platform, but the release is for SGX machines.",
            hint='Run the enclave on an SGX machine, or build a release with platform = "simulated".',
        )
    if not simulated_quote and release is PlatformKind.SIMULATED:
        raise SgxCode.POLICY_PLATFORM_KIND.error(
            "The quote comes from an SGX processor, but the release is for simulated platforms.",
            hint='Build a release with platform = "sgx" for this machine.',
        )
