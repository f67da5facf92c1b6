"""TCB policies: which states of a platform's trusted computing base (TCB) permit the release of a key."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, PlainSerializer

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode

_ADVISORY: Final = re.compile(r"(INTEL|SIMULATED)-(SA|DOC)-[0-9]{5}")
_ACCEPTABLE: Final = frozenset(
    {
        TcbStatus.UP_TO_DATE,
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    }
)


_Sorted = PlainSerializer(sorted)  # so that equal policies have equal JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbPolicy:
    """A list of accepted TCB statuses and of accepted security advisories. Anything not listed is rejected.

    Args:
        name: The policy's name in messages: the name of a preset, or a custom name.
        statuses: The accepted statuses. Out-of-date and revoked statuses are never permitted.
        advisories: The accepted advisories, for example ``INTEL-SA-00615``.

    Raises:
        InputError: `policy.empty` if the name or the list of statuses is empty.
        InputError: `policy.tcb-policy` if a status must not be accepted, or an advisory id is malformed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    statuses: Annotated[frozenset[TcbStatus], _Sorted]
    advisories: Annotated[frozenset[str], _Sorted] = frozenset()

    def __post_init__(self) -> None:
        if not self.name or not self.statuses:
            raise AttestationCode.POLICY_EMPTY.error(
                f"The TCB policy {self.name!r} lists no accepted TCB status.",
                hint="Use a preset (strict or cloud-smt), or list the accepted statuses.",
            )
        if never := sorted(self.statuses - _ACCEPTABLE):
            raise AttestationCode.POLICY_TCB_POLICY.error(
                f"The TCB policy {self.name!r} lists {', '.join(never)}, which a policy must not accept: "
                "such a platform does not protect secrets.",
                hint=f"Use only these statuses: {', '.join(sorted(_ACCEPTABLE))}.",
            )
        if wrong := sorted(entry for entry in self.advisories if not _ADVISORY.fullmatch(entry)):
            raise AttestationCode.POLICY_TCB_POLICY.error(
                f"The TCB policy {self.name!r} lists {wrong[0]!r}, which is not a valid advisory id.",
                hint="Use ids such as INTEL-SA-00615.",
            )

    def check(self, status: TcbStatus, advisories: Iterable[str]) -> None:
        """Check that this policy accepts the TCB state of a platform.

        Raises:
            VerificationError: `policy.tcb-status` if the status is not accepted.
            VerificationError: `policy.advisory` if an advisory is not accepted.
        """
        found = sorted(advisories)
        if status not in self.statuses:
            raise AttestationCode.POLICY_TCB_STATUS.error(
                f"The platform's TCB status is {status} ({', '.join(found) or 'no advisories'}), but "
                f"the policy {self.name!r} accepts only {', '.join(sorted(self.statuses))}.",
                hint="Update the machine's firmware and microcode, or choose a policy that accepts this status.",
            )
        if unaccepted := [entry for entry in found if entry not in self.advisories]:
            raise AttestationCode.POLICY_ADVISORY.error(
                f"The platform's TCB status is {status} because of {', '.join(unaccepted)}, but "
                f"the policy {self.name!r} accepts {', '.join(sorted(self.advisories)) or 'no advisories'}.",
                hint="Read the advisories. Then update the machine, or list the advisories in a custom policy.",
            )

    def to_json(self) -> str:
        """Return the policy as JSON. Equal policies have equal JSON."""
        value = {"name": self.name, "statuses": sorted(self.statuses), "advisories": sorted(self.advisories)}
        return json.dumps(value, sort_keys=True, separators=(",", ":"))


STRICT: Final = TcbPolicy(name="strict", statuses=frozenset({TcbStatus.UP_TO_DATE}))
"""Accepts only up-to-date platforms without any advisory."""

CLOUD_SMT: Final = TcbPolicy(
    name="cloud-smt",
    statuses=frozenset(
        {
            TcbStatus.UP_TO_DATE,
            TcbStatus.SW_HARDENING_NEEDED,
            TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        }
    ),
    # INTEL-SA-00615 (MMIO stale data) applies with hyper-threading, which clouds enable, also as SWHardeningNeeded.
    # INTEL-SA-00289 (voltage interface) applies if the firmware does not report the interface as locked.
    # Source: Intel, "SGX Attestation Technical Details", table 1. INTEL-SA-00334 (LVI) is not listed: on affected
    # processors, enclaves must be compiled with mitigations, and TensorFlow is not.
    advisories=frozenset({"INTEL-SA-00289", "INTEL-SA-00615"}),
)
"""Accepts cloud machines with hyper-threading: hardening needed, but only for the listed advisories."""

PRESETS: Final[Mapping[str, TcbPolicy]] = MappingProxyType({policy.name: policy for policy in (STRICT, CLOUD_SMT)})
"""The presets by name, for ``tcb.preset`` in ``sealserve.toml`` and for ``sealserve doctor``."""
