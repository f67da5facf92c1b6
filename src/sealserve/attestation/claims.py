"""Claims: what the verifier found to be true of an enclave and of the platform that runs it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType

REPORT_DATA_SIZE: Final = 64
"""Bytes that an enclave chooses and that its evidence repeats: here they bind the key of its TLS certificate."""

Measurement = NewType("Measurement", bytes)
"""Digest of an enclave's initial content and configuration. SGX calls it MRENCLAVE."""


class TcbStatus(StrEnum):
    """What the vendor thinks of a platform's security versions and configuration."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims(ABC):
    """What verified evidence says. The class is abstract: only the verifier of a kind of evidence makes claims.

    A policy takes claims, and unverified evidence is of other types (see `sealserve.attestation.evidence`), so a policy
    cannot appraise bytes that were not verified.

    Args:
        tcb_status: What the vendor thinks of the platform's TCB.
        advisory_ids: The advisories that apply to it.
        platform_id: Identifies one platform among all, in hexadecimal.
        tcb_evaluation_data_number: How new the vendor's collateral was. The relying party remembers the highest number.
        tcb_date: The date of the platform's TCB level.
        simulated: Whether the platform is a simulated one, which protects nothing.
    """

    tcb_status: TcbStatus
    advisory_ids: tuple[str, ...]
    platform_id: str
    tcb_evaluation_data_number: int
    tcb_date: datetime
    simulated: bool

    @property
    @abstractmethod
    def measurement(self) -> Measurement:
        """The enclave's measurement."""

    @abstractmethod
    def check_reference(self, values: str) -> None:
        """Compare the enclave with reference values.

        Args:
            values: JSON, as `sealserve.attestation.evidence.ReferenceValues.to_json` wrote it.

        Raises:
            VerificationError: The enclave is not the one that they describe.
            ValueError, TypeError, KeyError: This is not JSON of that form.
        """
