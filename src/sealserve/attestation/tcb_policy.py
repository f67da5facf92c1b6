"""TCB policies: which states of a platform's trusted computing base (TCB) permit the release of a key."""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Final, Literal, Protocol

from pydantic import ConfigDict, PlainSerializer

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode

_ADVISORY: Final = re.compile(r"(INTEL|SIMULATED)-(SA|DOC)-[0-9]{5}")
ACCEPTABLE: Final = frozenset(
    {
        TcbStatus.UP_TO_DATE,
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    }
)
"""The statuses that a policy may accept without a time limit."""
OUT_OF_DATE: Final = frozenset({TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED})
"""The statuses that a policy may accept during a grace period. No policy accepts ``Revoked``."""
LONGEST_GRACE: Final = 3650
"""The longest grace period in days."""

ANY: Final = "any"
Advisories = Annotated[frozenset[str], PlainSerializer(sorted)]  # sorted, so that equal policies have equal JSON
AnyAdvisories = Annotated[
    frozenset[str] | Literal["any"], PlainSerializer(lambda found: found if found == ANY else sorted(found))
]


class TcbState(Protocol):
    """The facts about a platform that a TCB policy checks. `sealserve.attestation.claims.Claims` has them."""

    @property
    def tcb_status(self) -> TcbStatus:
        """The vendor's rating."""

    @property
    def advisory_ids(self) -> tuple[str, ...]:
        """The security advisories that affect the platform."""

    @property
    def tcb_superseded(self) -> datetime | None:
        """The date of the TCB recovery that made the platform out of date."""

    @property
    def verified_at(self) -> datetime:
        """The time of the verification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GracePeriod:
    """The time after a TCB recovery in which out-of-date platforms are still accepted.

    The period begins at the date of the first TCB level that is newer than the platform's level. So a platform that
    missed two TCB recoveries gets no second period.

    Args:
        days: The length of the period in days.
        accept: The accepted out-of-date statuses, each with the accepted advisories, or ``any``.

    Raises:
        InputError: `policy.tcb-policy` if a value is out of range, or a status is not an out-of-date status.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    days: int
    accept: Mapping[TcbStatus, AnyAdvisories]

    def __post_init__(self) -> None:
        if not 1 <= self.days <= LONGEST_GRACE:
            raise AttestationCode.POLICY_TCB_POLICY.error(
                f"The grace period is invalid: expected 1 to {LONGEST_GRACE} days, got {self.days}."
            )
        if not self.accept or (wrong := sorted(self.accept.keys() - OUT_OF_DATE)):
            found = ", ".join(wrong) if self.accept else "none"
            raise AttestationCode.POLICY_TCB_POLICY.error(
                f"The grace period is invalid: expected out-of-date statuses, got {found}.",
                hint=f"Use only these statuses: {', '.join(sorted(OUT_OF_DATE))}. No policy can accept Revoked.",
            )
        for advisories in self.accept.values():
            if advisories != ANY:
                check_advisory_ids(advisories, where="The grace period")

    def end(self, superseded: datetime) -> datetime:
        """Return the end of the period. At this time, the platform is no longer accepted."""
        return superseded + timedelta(days=self.days)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbPolicy:
    """The accepted TCB statuses, each with the accepted security advisories. Anything not listed is rejected.

    Args:
        name: The policy's name in messages: the name of a preset, or a custom name.
        accept: The accepted statuses, each with the advisories that are accepted with it (``INTEL-SA-00615``). A
            revoked status is never permitted, and an out-of-date status only in ``grace``.
        grace: The grace period for out-of-date platforms. `None` means that they are rejected.

    Raises:
        InputError: `policy.empty` if the name or the list of statuses is empty.
        InputError: `policy.tcb-policy` if a status must not be accepted, or an advisory id is malformed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    accept: Mapping[TcbStatus, Advisories]
    grace: GracePeriod | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.accept:
            raise AttestationCode.POLICY_EMPTY.error(
                f"The TCB policy {self.name!r} lists no accepted TCB status.",
                hint="Use a preset (strict or cloud-smt), or list the accepted statuses.",
            )
        if never := sorted(self.accept.keys() - ACCEPTABLE):
            raise AttestationCode.POLICY_TCB_POLICY.error(
                f"The TCB policy {self.name!r} lists {', '.join(never)}, which a policy must not accept: "
                "such a platform does not protect secrets.",
                hint=f"Use only these statuses: {', '.join(sorted(ACCEPTABLE))}. A grace period can accept "
                f"{' and '.join(sorted(OUT_OF_DATE))} for a limited time.",
            )
        for advisories in self.accept.values():
            check_advisory_ids(advisories, where=f"The TCB policy {self.name!r}")

    @property
    def statuses(self) -> frozenset[TcbStatus]:
        """The statuses that are accepted without a time limit."""
        return frozenset(self.accept)

    def check(self, state: TcbState) -> None:
        """Check that this policy accepts the TCB state of a platform.

        Raises:
            VerificationError: `policy.tcb-status` if the status is not accepted.
            VerificationError: `policy.tcb-grace` if the grace period has ended, or its start is unknown.
            VerificationError: `policy.advisory` if an advisory is not accepted with this status.
        """
        status, found = state.tcb_status, sorted(state.advisory_ids)
        accepted: AbstractSet[str] | Literal["any"]
        if status in self.accept:
            accepted = self.accept[status]
        elif self.grace is not None and status in self.grace.accept:
            self._check_grace(self.grace, state)
            accepted = self.grace.accept[status]
        else:
            raise AttestationCode.POLICY_TCB_STATUS.error(
                f"The platform's TCB status is {status} ({', '.join(found) or 'no advisories'}), but "
                f"the policy {self.name!r} accepts only {', '.join(sorted(self.accept))}.",
                hint="Update the machine's firmware and microcode, or choose a policy that accepts this status.",
            )
        if accepted != ANY and (unaccepted := [entry for entry in found if entry not in accepted]):
            raise AttestationCode.POLICY_ADVISORY.error(
                f"The platform's TCB status is {status} because of {', '.join(unaccepted)}, but the policy "
                f"{self.name!r} accepts {', '.join(sorted(accepted)) or 'no advisories'} with this status.",
                hint="Read the advisories. Then update the machine, or list the advisories in a custom policy.",
            )

    def _check_grace(self, grace: GracePeriod, state: TcbState) -> None:
        superseded = state.tcb_superseded
        if superseded is None:
            raise AttestationCode.POLICY_TCB_GRACE.error(
                f"The platform's TCB status is {state.tcb_status}, and the start of its grace period is unknown: "
                "the vendor's documents contain no newer TCB level.",
                hint="Update the machine's firmware and microcode.",
            )
        if state.verified_at >= (end := grace.end(superseded)):
            raise AttestationCode.POLICY_TCB_GRACE.error(
                f"The platform's TCB status is {state.tcb_status}, and its grace period of {grace.days} days ended at "
                f"{end:%Y-%m-%dT%H:%M:%SZ}: a newer TCB level is dated {superseded:%Y-%m-%d}.",
                hint="Update the machine's firmware and microcode. docs/how-to/tcb-recovery.md describes the steps.",
            )


def check_advisory_ids(advisories: AbstractSet[str], *, where: str) -> None:
    """Check the form of advisory ids.

    Raises:
        InputError: `policy.tcb-policy` if an id is malformed.
    """
    if wrong := sorted(entry for entry in advisories if not _ADVISORY.fullmatch(entry)):
        raise AttestationCode.POLICY_TCB_POLICY.error(
            f"{where} lists {wrong[0]!r}, which is not a valid advisory id.", hint="Use ids such as INTEL-SA-00615."
        )
