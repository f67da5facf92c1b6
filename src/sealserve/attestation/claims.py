"""Claims: the verified facts about an enclave and the platform that runs it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType

REPORT_DATA_SIZE: Final = 64
"""Length in bytes of the report data, which an enclave chooses. In RA-TLS it is bound to the TLS certificate's key."""

Measurement = NewType("Measurement", bytes)
"""Digest of an enclave's initial content and configuration. SGX calls it MRENCLAVE."""

Fact = str | int
"""A fact in the audit log."""


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
class EnclaveIdentity:
    """The properties that identify an enclave, for an attestation result. The names do not depend on the TEE.

    Args:
        tee: The kind of trusted execution environment: ``sgx``.
        measurement: The enclave's measurement. SGX: MRENCLAVE.
        signer: The digest of the key that signed the enclave. SGX: MRSIGNER.
        product_id: The product id from the signer. SGX: ISVPRODID.
        security_version: The security version from the signer. SGX: ISVSVN.
        debug: Whether the host can read the enclave's memory with the debug facility.
    """

    tee: str
    measurement: Measurement
    signer: bytes
    product_id: int
    security_version: int
    debug: bool


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
        tcb_superseded: The date of the first TCB level that is newer, if the platform's level is out of date. `None` if
            it is not out of date, or if the vendor's documents contain no newer level.
        collateral_issued: The issue date of the oldest document that is issued regularly.
        verified_at: The time of the verification.
        simulated: Whether the platform is simulated. A simulated platform provides no protection.
    """

    tcb_status: TcbStatus
    advisory_ids: tuple[str, ...]
    platform_id: str
    tcb_evaluation_data_number: int
    tcb_date: datetime
    tcb_superseded: datetime | None
    collateral_issued: datetime
    verified_at: datetime
    simulated: bool

    @property
    @abstractmethod
    def measurement(self) -> Measurement:
        """The enclave's measurement."""

    @property
    @abstractmethod
    def identity(self) -> EnclaveIdentity:
        """The properties that identify the enclave."""

    @property
    @abstractmethod
    def product(self) -> Measurement:
        """The enclave's signer and product, in the form of a measurement. A dangerous policy can accept a product."""

    @abstractmethod
    def check_reference(self, values: str) -> None:
        """Compare the enclave with reference values.

        Args:
            values: JSON from `sealserve.attestation.evidence.ReferenceValues.to_json`.

        Raises:
            VerificationError: The enclave differs from the reference values.
            ValueError, TypeError, KeyError: ``values`` is not JSON of that form.
        """

    @abstractmethod
    def check_rules(self, rules: str) -> None:
        """Check the rules of a policy that apply only to this kind of evidence.

        Args:
            rules: JSON from `sealserve.attestation.policy.AppraisalPolicy.evidence_rules`: an object with one table
                for each kind of evidence.

        Raises:
            VerificationError: The claims do not satisfy a rule.
            InputError: ``rules`` contains a table or a rule that this kind of evidence does not support.
        """

    @abstractmethod
    def facts(self) -> Mapping[str, Fact]:
        """Return the facts about the platform and the enclave that the audit log records with a decision.

        They contain everything that rules check, so that a policy can be tried with the log. They contain no secret.
        """
