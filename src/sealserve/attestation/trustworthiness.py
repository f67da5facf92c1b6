"""The trustworthiness vector of an appraisal, and its tier: AR4SI's summary that any relying party can read.

A vector contains a number for each category that the verifier makes a statement about. Ranges of numbers form four
tiers. The status of an appraisal is the worst tier in its vector.

Source: draft-ietf-rats-ar4si-10, section 2.3.2 (tiers) and 2.3.4 (categories and their values).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from sealserve.attestation.claims import TcbStatus

SPEC_VERSION: Final = "draft-ietf-rats-ar4si-10"
SMALLEST_VALUE: Final = -128
LARGEST_VALUE: Final = 127


class Category(StrEnum):
    """The categories that sealserve makes a statement about. A category without a statement is absent."""

    INSTANCE_IDENTITY = "instance-identity"
    """The machine: present only if the policy requires enrolled platforms."""
    CONFIGURATION = "configuration"
    """The configuration of the platform and of the enclave."""
    EXECUTABLES = "executables"
    """The code in the enclave."""
    HARDWARE = "hardware"
    """The processor and its firmware."""
    RUNTIME_OPAQUE = "runtime-opaque"
    """Whether the host can read the enclave's memory."""


class Tier(StrEnum):
    """The tiers, from the best to the worst. `NONE` means that the verifier makes no statement."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"

    @property
    def rank(self) -> int:
        """The position in the order from `NONE` to `CONTRAINDICATED`."""
        return list(Tier).index(self)


_APPROVED: Final = 2
_APPROVED_AT_START: Final = 3  # executables: the measurement covers the start of the enclave
_KNOWN_VULNERABILITIES: Final = 32
_CONTRAINDICATED: Final = 96

_VALUES: Final = {
    Tier.NONE: (range(-1, 2),),
    Tier.AFFIRMING: (range(2, 32), range(-32, -1)),
    Tier.WARNING: (range(32, 96), range(-96, -32)),
    Tier.CONTRAINDICATED: (range(96, LARGEST_VALUE + 1), range(SMALLEST_VALUE, -96)),
}

_CONFIGURATION: Final = frozenset(
    {
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)
_HARDWARE: Final = frozenset(
    {
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)


def vector_of(*, tcb_status: TcbStatus, enrolled: bool, simulated: bool) -> Mapping[str, int]:
    """Return the vector of an enclave whose evidence verified, and whose reference values and policy are satisfied.

    A simulated platform protects nothing. Its hardware and the secrecy of its memory are contraindicated, so that a
    relying party that reads only the status rejects it too.

    Args:
        tcb_status: The vendor's rating of the platform.
        enrolled: Whether the policy requires an enrolled platform.
        simulated: Whether the platform is simulated.
    """
    hardware = _KNOWN_VULNERABILITIES if tcb_status in _HARDWARE else _APPROVED
    vector = {
        Category.CONFIGURATION: _KNOWN_VULNERABILITIES if tcb_status in _CONFIGURATION else _APPROVED,
        Category.EXECUTABLES: _APPROVED_AT_START,
        Category.HARDWARE: _CONTRAINDICATED if simulated or tcb_status is TcbStatus.REVOKED else hardware,
        Category.RUNTIME_OPAQUE: _CONTRAINDICATED if simulated else _APPROVED,
    }
    if enrolled:
        vector[Category.INSTANCE_IDENTITY] = _APPROVED
    return {category.value: value for category, value in vector.items()}


def tier_of(value: int) -> Tier:
    """Return the tier of a value from -128 to 127. Negative values are for private use."""
    return next(tier for tier, values in _VALUES.items() if any(value in part for part in values))


def worst_tier(vector: Mapping[str, int]) -> Tier:
    """Return the worst tier in a vector, or `Tier.NONE` for an empty vector."""
    return max((tier_of(value) for value in vector.values()), key=lambda tier: tier.rank, default=Tier.NONE)
