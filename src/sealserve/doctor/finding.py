"""Findings of `sealserve doctor`: one for each check."""

from dataclasses import dataclass
from enum import StrEnum


class Machine(StrEnum):
    """The role of a machine."""

    OWNER = "owner"
    HOST = "host"
    USER = "user"


class Verdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check: its subject, what the check found, and how to fix a problem."""

    machine: Machine
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""

    @property
    def code(self) -> str:
        """The stable name of the check for programs, such as ``host.nginx``."""
        return f"{self.machine}.{self.name.lower().replace(' ', '-')}"
