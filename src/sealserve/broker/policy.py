"""The appraisal policy: what a verified quote must say before a key is released. Pure: no clock, no database.

The names are those of RATS (RFC 9334): reference values, appraisal policy, attestation result. MRENCLAVE alone survives
a re-signing of the same enclave (with DEBUG, or another SVN), so MRSIGNER, ISVPRODID, ISVSVN and the attributes are
always checked beside it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Self

from sealserve.attestation.tcb_policy import CLOUD_SMT, PRESETS, STRICT, AdvisoryError, TcbPolicy, TcbStatusError
from sealserve.errors import InputError, VerificationError
from sealserve.sgx.appraisal import VerifiedQuote
from sealserve.sgx.report import AttributeFlags, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.sigstruct import Sigstruct
from sealserve.terms import PlatformKind

__all__ = ["CLOUD_SMT", "PRESETS", "STRICT", "AdvisoryError", "ReferenceValues", "TcbPolicy", "TcbStatusError"]

_ALL_BITS: Final = (1 << 64) - 1
_NEVER_FREE: Final = AttributeFlags.INIT | AttributeFlags.DEBUG | AttributeFlags.MODE64BIT
_X87_AND_SSE: Final = 0x3
_DIGEST_SIZE: Final = 32
_UINT16_MAX: Final = (1 << 16) - 1


class ReferenceValuesError(InputError):
    """Reference values that would admit more than the owner can mean: empty, out of range, or with DEBUG."""

    code = "policy.reference-values"


class MrEnclaveUnknownError(VerificationError):
    """No release has this MRENCLAVE."""

    code = "policy.mr-enclave-unknown"


class MrSignerError(VerificationError):
    """The enclave was signed by another key."""

    code = "policy.mr-signer"


class IsvProdIdError(VerificationError):
    """The enclave has another product id."""

    code = "policy.isv-prod-id"


class IsvSvnError(VerificationError):
    """The enclave's security version is older than the release asks for."""

    code = "policy.isv-svn"


class AttributesError(VerificationError):
    """The enclave's attributes are not the expected ones."""

    code = "policy.attributes"


class DebugError(VerificationError):
    """A debug enclave: the host can read its memory."""

    code = "policy.debug"


class ReleaseRevokedError(VerificationError):
    """The release was revoked: no enclave gets its key any more."""

    code = "policy.release-revoked"


class ReleaseDrainingEndedError(VerificationError):
    """The release was draining, and its deadline is over."""

    code = "policy.release-draining-ended"


class SimulatedQuoteError(VerificationError):
    """A simulated platform asks for the key of a release for SGX machines."""

    code = "policy.simulated-quote"


class PlatformKindError(VerificationError):
    """The quote comes from another kind of platform than the release is made for."""

    code = "policy.platform-kind"


class PlatformUnknownError(VerificationError):
    """The release wants an enrolled platform, and this one is not."""

    code = "policy.platform-unknown"


class ReleaseState(StrEnum):
    """Where a release is in its life."""

    ACTIVE = "active"
    DRAINING = "draining"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """What one enclave of a release must look like.

    Args:
        mr_enclave: 32 bytes.
        mr_signer: 32 bytes.
        isv_prod_id: The product id, exactly.
        isv_svn: The least security version.
        attribute_flags: The flags, exactly, under ``attribute_flags_mask``; never DEBUG.
        attribute_flags_mask: Which flags count; INIT, DEBUG and MODE64BIT always do.
        xfrm: The extended processor state, exactly, under ``xfrm_mask``.
        xfrm_mask: Which bits of it count; x87 and SSE always do.

    Raises:
        ReferenceValuesError: A value is empty, out of range, or admits a debug enclave.
    """

    mr_enclave: MrEnclave
    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int
    attribute_flags: int = AttributeFlags.INIT | AttributeFlags.MODE64BIT
    attribute_flags_mask: int = _ALL_BITS
    xfrm: int = _X87_AND_SSE
    xfrm_mask: int = _X87_AND_SSE

    @classmethod
    def of_sigstruct(cls, sigstruct: Sigstruct) -> Self:
        """Return the reference values of the enclave that ``sigstruct`` launches; verify its signature first.

        The masks are those that EINIT applied: what they leave open (AVX and wider) is the platform's.
        """
        return cls(
            mr_enclave=sigstruct.mr_enclave,
            mr_signer=sigstruct.mr_signer,
            isv_prod_id=sigstruct.isv_prod_id,
            isv_svn=sigstruct.isv_svn,
            attribute_flags=sigstruct.attributes.flags | AttributeFlags.INIT,
            attribute_flags_mask=sigstruct.attribute_mask.flags,
            xfrm=sigstruct.attributes.xfrm,
            xfrm_mask=sigstruct.attribute_mask.xfrm,
        )

    def __post_init__(self) -> None:
        for name, digest in (("mr_enclave", self.mr_enclave), ("mr_signer", self.mr_signer)):
            if len(digest) != _DIGEST_SIZE:
                raise ReferenceValuesError(f"{name} must have {_DIGEST_SIZE} bytes, got {len(digest)}.")
            if not any(digest):
                raise ReferenceValuesError(f"{name} is empty (all zeros): that is no reference value.")
        for name, number, most in (
            ("isv_prod_id", self.isv_prod_id, _UINT16_MAX),
            ("isv_svn", self.isv_svn, _UINT16_MAX),
            ("attribute_flags", self.attribute_flags, _ALL_BITS),
            ("attribute_flags_mask", self.attribute_flags_mask, _ALL_BITS),
            ("xfrm", self.xfrm, _ALL_BITS),
            ("xfrm_mask", self.xfrm_mask, _ALL_BITS),
        ):
            if not 0 <= number <= most:
                raise ReferenceValuesError(f"{name} must be between 0 and {most:#x}, got {number:#x}.")
        if self.attribute_flags & AttributeFlags.DEBUG:
            raise ReferenceValuesError("attribute_flags has DEBUG: a debug enclave keeps no secret.")
        if self.attribute_flags_mask & _NEVER_FREE != _NEVER_FREE or self.xfrm_mask & _X87_AND_SSE != _X87_AND_SSE:
            raise ReferenceValuesError(
                "The masks must cover INIT, DEBUG and MODE64BIT, and x87 and SSE in XFRM; "
                f"got {self.attribute_flags_mask:#x} and {self.xfrm_mask:#x}."
            )


def check_standing(state: ReleaseState, deadline: datetime | None, now: datetime) -> None:
    """Refuse a release that is over.

    Args:
        state: The release's state.
        deadline: The end of draining; counts for a draining release only.
        now: The time on the owner's clock.

    Raises:
        ReleaseRevokedError: It was revoked.
        ReleaseDrainingEndedError: Its draining has ended, or has no end.
    """
    if state is ReleaseState.REVOKED:
        raise ReleaseRevokedError("The release is revoked.", hint="Start enclaves of the current release.")
    if state is ReleaseState.DRAINING and (deadline is None or now >= deadline):
        until = deadline.isoformat(timespec="seconds") if deadline else "no date"
        raise ReleaseDrainingEndedError(
            f"The release was draining until {until}, and it is {now.isoformat(timespec='seconds')}.",
            hint="Start enclaves of the current release, or `sealserve broker allow --reactivate` this one.",
        )


def check_platform_kind(*, simulated_quote: bool, release: PlatformKind) -> None:
    """Refuse a quote from the wrong kind of platform.

    Raises:
        SimulatedQuoteError: The release is for SGX, the quote is simulated.
        PlatformKindError: The release is simulated, the quote is not.
    """
    if simulated_quote and release is PlatformKind.SGX:
        raise SimulatedQuoteError(
            "The quote comes from a simulated platform, and the release is for SGX machines.",
            hint='Run the enclave on an SGX machine, or build a release with platform = "simulated".',
        )
    if not simulated_quote and release is PlatformKind.SIMULATED:
        raise PlatformKindError(
            "The quote comes from an SGX processor, and the release is marked as simulated.",
            hint='Build a release with platform = "sgx" for this machine.',
        )


def check_enrolment(platform_id: str, enrolled: Collection[str]) -> None:
    """Refuse a platform that the owner has not enrolled.

    Raises:
        PlatformUnknownError: ``platform_id`` is not among ``enrolled``.
    """
    if platform_id not in enrolled:
        raise PlatformUnknownError(
            f"The platform {platform_id} is not enrolled, and the release is for enrolled platforms only.",
            hint="A genuine processor need not be yours: enrol this one only if you know where it stands.",
        )


def appraise(quote: VerifiedQuote, reference: ReferenceValues, tcb: TcbPolicy) -> None:
    """Compare a verified quote with the reference values and the TCB policy.

    Args:
        quote: What verification found; its signatures and collateral were checked before.
        reference: The reference values of the release that has the quote's MRENCLAVE.
        tcb: Which platform states are accepted.

    Raises:
        VerificationError: The first thing that does not fit, as one of the errors of this module and of `tcb_policy`.
    """
    _appraise_enclave(quote.report, reference)
    tcb.check(quote.tcb_status, quote.advisory_ids)


def _appraise_enclave(report: EnclaveReport, reference: ReferenceValues) -> None:
    if report.attributes.debug:
        raise DebugError(
            "The enclave runs with DEBUG, so that the host can read its memory.",
            hint="Sign the enclave with sgx.debug = false.",
        )
    if report.mr_enclave != reference.mr_enclave:
        raise MrEnclaveUnknownError(_expected("MRENCLAVE", reference.mr_enclave.hex(), report.mr_enclave.hex()))
    if report.mr_signer != reference.mr_signer:
        raise MrSignerError(_expected("MRSIGNER", reference.mr_signer.hex(), report.mr_signer.hex()))
    if report.isv_prod_id != reference.isv_prod_id:
        raise IsvProdIdError(_expected("ISVPRODID", str(reference.isv_prod_id), str(report.isv_prod_id)))
    if report.isv_svn < reference.isv_svn:
        raise IsvSvnError(_expected("ISVSVN", f"at least {reference.isv_svn}", str(report.isv_svn)))
    for name, found, wanted, mask in (
        ("flags", report.attributes.flags, reference.attribute_flags, reference.attribute_flags_mask),
        ("XFRM", report.attributes.xfrm, reference.xfrm, reference.xfrm_mask),
    ):
        if found & mask != wanted & mask:
            raise AttributesError(_expected(f"ATTRIBUTES, {name}", f"{wanted:#x} under mask {mask:#x}", f"{found:#x}"))


def _expected(field: str, expected: str, found: str) -> str:
    return f"{field}: expected {expected}, got {found}."
