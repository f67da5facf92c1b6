"""Claims: what the verifier found to be true of an enclave and of the platform that runs it."""

from enum import StrEnum
from typing import Final

REPORT_DATA_SIZE: Final = 64
"""Bytes that an enclave chooses and that its evidence repeats: here they bind the key of its TLS certificate."""


class TcbStatus(StrEnum):
    """What the vendor thinks of a platform's security versions and configuration."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
