"""The facts about a platform in a row of the audit log, in the form that the checks of a policy read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from sealserve.attestation.claims import Fact, Measurement, TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.tcb_policy import OUT_OF_DATE
from sealserve.broker.audit_entry import Entry
from sealserve.broker.database import reading
from sealserve.sgx.appraisal import complete_facts
from sealserve.sgx.pck import COMPONENTS
from sealserve.sgx.pcs_responses import Signed
from sealserve.sgx.policy_rules import rules_of
from sealserve.sgx.reference_values import check_identity, parse_reference, product_of
from sealserve.sgx.report import MrSigner
from sealserve.sgx.tcb_levels import TcbRating, rate

_DIGITS_OF_FMSPC: Final = 12
_UINT16: Final = (1 << 16) - 1


class MissingFactError(Exception):
    """The row lacks a fact that a rule needs, because an earlier version of sealserve wrote it, or it was changed."""


class RecordedFacts:
    """The facts in an audit row. It implements `sealserve.attestation.policy.Appraised`.

    Args:
        entry: The row of a released key.
        now: The time at which the platform asks for a key again.
    """

    def __init__(self, entry: Entry, *, now: datetime) -> None:
        self._entry = entry
        self._facts: Mapping[str, Fact] = complete_facts(
            {name: value for name, value in entry.claims.items() if isinstance(value, str | int)}
        )
        self._now = now
        self._rating: TcbRating | None = None
        self._issued: datetime | None = None

    def rate_again(self, tcb_info: Signed, qe_identity: Signed) -> None:
        """Replace the recorded TCB rating by the rating of other documents.

        Raises:
            MissingFactError: The row lacks the platform's security versions.
            VerificationError: No TCB level applies to the platform.
        """
        cpu_svn = self._hex("cpu_svn", COMPONENTS)
        pce_svn, qe_svn = self._number("pce_svn"), self._number("qe_svn")
        self._rating = rate(tcb_info.text, qe_identity.text, cpu_svn=cpu_svn, pce_svn=pce_svn, qe_svn=qe_svn)
        self._issued = min(tcb_info.issued, qe_identity.issued)

    @property
    def fmspc(self) -> str:
        """The kind of processor, 12 upper-case hexadecimal digits."""
        return self._hex("fmspc", _DIGITS_OF_FMSPC // 2).hex().upper()

    @property
    def tcb_status(self) -> TcbStatus:
        """The TCB status."""
        if self._rating is not None:
            return self._rating.status
        try:
            return TcbStatus(self._entry.tcb_status or "")
        except ValueError as error:
            raise MissingFactError("the row has no known TCB status") from error

    @property
    def advisory_ids(self) -> tuple[str, ...]:
        """The advisories that affect the platform."""
        if self._rating is not None:
            return self._rating.advisory_ids
        if self._entry.advisories is None:
            raise MissingFactError("the row has no list of advisories")
        return tuple(filter(None, self._entry.advisories.split(",")))

    @property
    def platform_id(self) -> str:
        """The id of the platform."""
        if self._entry.platform_id is None:
            raise MissingFactError("the row has no platform id")
        return self._entry.platform_id

    @property
    def tcb_evaluation_data_number(self) -> int:
        """The version of the collateral."""
        return self._number("tcb_evaluation_number") if self._rating is None else self._rating.evaluation_number

    @property
    def tcb_date(self) -> datetime:
        """The date of the platform's TCB level."""
        return self._moment("tcb_date") if self._rating is None else self._rating.dated

    @property
    def tcb_superseded(self) -> datetime | None:
        """The date of the TCB recovery that made the platform out of date."""
        if self._rating is not None:
            return self._rating.superseded
        # A row with the date of the TCB level was written by a version that also records this date if it exists.
        if "tcb_superseded" not in self._facts and "tcb_date" in self._facts and self.tcb_status in OUT_OF_DATE:
            return None
        return self._moment("tcb_superseded")

    @property
    def collateral_issued(self) -> datetime:
        """The issue date of the collateral. The age at the next request is the age that it had at the recorded time."""
        if self._issued is not None:
            return self._issued
        return self._now - (self._entry.time - self._moment("collateral_issued"))

    @property
    def verified_at(self) -> datetime:
        """The time at which the platform asks for a key again."""
        return self._now

    def check_rules(self, rules: str) -> None:
        """Check the rules for SGX."""
        try:
            rules_of(rules).check(self._facts)
        except KeyError as error:
            raise MissingFactError(f"the row lacks the fact {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise MissingFactError("a fact of the row has another type") from error

    def check_reference(self, registered: Mapping[Measurement, str]) -> None:
        """Compare the enclave of the row with the reference values of its release.

        The row has no attributes, so they are not compared.

        Args:
            registered: The reference values as JSON, by the measurement of the enclave or of the accepted product.

        Raises:
            VerificationError: `policy.mr-enclave-unknown` if the enclave is not registered any more, or the code of the
                first value that differs.
            MissingFactError: The row lacks a value.
        """
        mr_enclave = self._digest("MRENCLAVE", self._entry.mr_enclave)
        mr_signer = MrSigner(self._digest("MRSIGNER", self._entry.mr_signer))
        values = registered.get(Measurement(mr_enclave))
        product_id, svn = self._number("isv_prod_id"), self._number("isv_svn")
        if not 0 <= product_id <= _UINT16:
            raise MissingFactError("the fact isv_prod_id of the row is out of range")
        if values is None:
            values = registered.get(Measurement(product_of(mr_signer, product_id)))
        if values is None:
            raise AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN.error(
                f"The enclave with MRENCLAVE {mr_enclave.hex()} is no longer registered for the release."
            )
        with reading("reference_values"):
            expected = parse_reference(values)
        check_identity(expected, mr_signer, product_id, svn)

    def _digest(self, name: str, text: str | None) -> bytes:
        try:
            return bytes.fromhex(text or "")
        except ValueError as error:
            raise MissingFactError(f"the row has no valid {name}") from error

    def _fact(self, name: str) -> Fact:
        if name not in self._facts:
            raise MissingFactError(f"the row lacks the fact {name}")
        return self._facts[name]

    def _number(self, name: str) -> int:
        if type(found := self._fact(name)) is not int:
            raise MissingFactError(f"the fact {name} of the row is not a number")
        return found

    def _hex(self, name: str, size: int) -> bytes:
        try:
            found = bytes.fromhex(str(self._fact(name)))
        except ValueError as error:
            raise MissingFactError(f"the fact {name} of the row is not hexadecimal") from error
        if len(found) != size:
            raise MissingFactError(f"the fact {name} of the row does not have {size} bytes")
        return found

    def _moment(self, name: str) -> datetime:
        try:
            found = datetime.fromisoformat(str(self._fact(name)))
        except ValueError as error:
            raise MissingFactError(f"the fact {name} of the row is not a time") from error
        if found.tzinfo is None:
            raise MissingFactError(f"the fact {name} of the row has no time zone")
        return found.astimezone(UTC)
