"""Claims: the verified facts about an enclave and the platform that runs it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType

REPORT_DATA_SIZE: Final = 64
"""Length in bytes of the report data, which an enclave chooses. In RA-TLS it is bound to the TLS certificate's key."""

Measurement = NewType("Measurement", bytes)
"""Digest of an enclave's initial content and configuration. SGX calls it MRENCLAVE."""


class TcbStatus(StrEnum):
    """The vendor's rating of a platform's security versions and configuration."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims(ABC):
    """The content of verified evidence. The class is abstract: only the verifier of a kind of evidence creates claims.

    A policy accepts only claims. Unverified evidence has other types (see `sealserve.attestation.evidence`), so a
    policy cannot appraise unverified bytes.

    Args:
        tcb_status: The vendor's rating of the platform's TCB.
        advisory_ids: The security advisories that affect the platform.
        platform_id: The unique id of the platform, in hexadecimal.
        tcb_evaluation_data_number: The version of the vendor's collateral. The relying party stores the highest number.
        tcb_date: The date of the platform's TCB level.
        simulated: Whether the platform is simulated. A simulated platform provides no protection.
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
            values: JSON from `sealserve.attestation.evidence.ReferenceValues.to_json`.

        Raises:
            VerificationError: The enclave differs from the reference values.
            ValueError, TypeError, KeyError: ``values`` is not JSON of that form.
        """
