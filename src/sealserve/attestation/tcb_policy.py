"""Which states of a platform's trusted computing base (TCB) are good enough for a release's key."""

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
    """An accepted status has to be named, and every advisory that comes with it as well.

    Args:
        name: What the policy is called in messages: a preset's name or one's own.
        statuses: The accepted statuses. Out of date and revoked platforms are in no policy.
        advisories: The accepted advisories, for instance ``INTEL-SA-00615``.

    Raises:
        InputError: `policy.empty`: No name, or no status.
        InputError: `policy.tcb-policy`: A status that no policy can accept, or something that is no advisory.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    statuses: Annotated[frozenset[TcbStatus], _Sorted]
    advisories: Annotated[frozenset[str], _Sorted] = frozenset()

    def __post_init__(self) -> None:
        if not self.name or not self.statuses:
            raise AttestationCode.POLICY_EMPTY.error(
                f"The TCB policy {self.name!r} names no accepted status.",
                hint="Take a preset (strict or cloud-smt), or list the statuses.",
            )
        if never := sorted(self.statuses - _ACCEPTABLE):
            raise AttestationCode.POLICY_TCB_POLICY.error(
                f"The TCB policy {self.name!r} accepts {', '.join(never)}: such a platform keeps no secret.",
                hint=f"What a policy can accept: {', '.join(sorted(_ACCEPTABLE))}.",
            )
        if wrong := sorted(entry for entry in self.advisories if not _ADVISORY.fullmatch(entry)):
            raise AttestationCode.POLICY_TCB_POLICY.error(
                f"The TCB policy {self.name!r} lists {wrong[0]!r}, which is no advisory."
            )

    def check(self, status: TcbStatus, advisories: Iterable[str]) -> None:
        """Refuse a platform whose state this policy does not accept.

        Raises:
            VerificationError: `policy.tcb-status`: The status is not accepted.
            VerificationError: `policy.advisory`: An advisory is not accepted.
        """
        found = sorted(advisories)
        if status not in self.statuses:
            raise AttestationCode.POLICY_TCB_STATUS.error(
                f"The platform's TCB status is {status}, with {', '.join(found) or 'no advisories'}; "
                f"the policy {self.name!r} accepts {', '.join(sorted(self.statuses))}.",
                hint="Update the machine's firmware and microcode, or choose a policy that accepts this on purpose.",
            )
        if unaccepted := [entry for entry in found if entry not in self.advisories]:
            raise AttestationCode.POLICY_ADVISORY.error(
                f"The platform is {status} because of {', '.join(unaccepted)}; "
                f"the policy {self.name!r} accepts {', '.join(sorted(self.advisories)) or 'no advisories'}.",
                hint="Read the advisories, then update the machine or list them in a policy of your own.",
            )

    def to_json(self) -> str:
        """Return the policy as JSON, the same for equal policies."""
        value = {"name": self.name, "statuses": sorted(self.statuses), "advisories": sorted(self.advisories)}
        return json.dumps(value, sort_keys=True, separators=(",", ":"))


STRICT: Final = TcbPolicy(name="strict", statuses=frozenset({TcbStatus.UP_TO_DATE}))
"""Up to date, without any advisory."""

CLOUD_SMT: Final = TcbPolicy(
    name="cloud-smt",
    statuses=frozenset(
        {
            TcbStatus.UP_TO_DATE,
            TcbStatus.SW_HARDENING_NEEDED,
            TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        }
    ),
    # INTEL-SA-00615 (MMIO stale data): comes with hyper-threading, which clouds leave on; also as SWHardeningNeeded.
    # INTEL-SA-00289 (voltage interface): comes with firmware that does not report the interface as locked.
    # Source: Intel, "SGX Attestation Technical Details", table 1. INTEL-SA-00334 (LVI) is not listed: processors that
    # it concerns need enclaves that were compiled against it, and TensorFlow is not.
    advisories=frozenset({"INTEL-SA-00289", "INTEL-SA-00615"}),
)
"""Cloud machines with hyper-threading: hardening needed, for the listed advisories only."""

PRESETS: Final[Mapping[str, TcbPolicy]] = MappingProxyType({policy.name: policy for policy in (STRICT, CLOUD_SMT)})
"""The presets by name, as ``tcb.preset`` in ``sealserve.toml`` and ``sealserve doctor`` know them."""
