"""What `sealserve doctor` says of a machine: one finding for each thing that it looked at."""

from dataclasses import dataclass
from enum import StrEnum


class Machine(StrEnum):
    """Whose part."""

    OWNER = "owner"
    HOST = "host"
    USER = "user"


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check: what was looked at, what was found, and how to mend it."""

    machine: Machine
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""

    @property
    def code(self) -> str:
        """The check's name for programs, which stays: ``host.nginx``."""
        return f"{self.machine}.{self.name.lower().replace(' ', '-')}"
