"""Parser for a replica's launch log: one line per step with its evidence, and the error that ended the start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sealserve.log_line import parse
from sealserve.regular_file import InputFileError, read_tail

_STEP = re.compile(r"step=(?P<name>\S+) ?(?P<evidence>.*)$")
_SUPERVISOR = re.compile(r"step=supervisor pid=(?P<pid>\d+) ")
_AGAIN = re.compile(r"step=again after=\S+ failed=\d+ signal=(?P<signal>\w+)$")
_LARGEST = 64 * 2**20  # even a replica that serves for months writes few lines
FIRST = "measured"
_UNREACHABLE = "release.store-unreachable"
_FINAL = (
    "attest.refused",
    "provisioning.refused",
    "release.",
    "release-index.",
    "enclave.",
    "measurement.",
    "sealing.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchStep:
    """A step: its name, when it was done (UTC), and its evidence as text."""

    name: str
    time: datetime
    evidence: Mapping[str, str]


def read_steps(log: Path) -> list[LaunchStep]:
    """Return the steps of the last start in ``log``, in order."""
    steps: list[LaunchStep] = []
    try:
        lines = read_tail(log, limit=_LARGEST).decode(errors="replace").splitlines()
    except InputFileError:
        return steps
    for line in map(parse, lines):
        if line.level != "INFO" or line.time is None or (found := _STEP.match(line.text)) is None:
            continue
        if found["name"] == FIRST:
            steps = []
        evidence = dict(item.split("=", 1) for item in found["evidence"].split() if "=" in item)
        steps.append(LaunchStep(name=found["name"], time=line.time, evidence=evidence))
    return steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """The number of enclave restarts by the launcher, and the cause of the last one.

    Args:
        count: Number of restarts.
        signal: The signal that ended the server, such as ``SIGABRT``. Empty if the server was not ended by a signal.
        time: When the server ended the last time, UTC.
    """

    count: int = 0
    signal: str = ""
    time: datetime | None = None


def read_restarts(log: Path, pid: int) -> Restarts:
    """Return how often a replica's launcher has restarted its enclave.

    Args:
        log: The replica's log.
        pid: The launcher's process ID.
    """
    found, ours = Restarts(), False
    try:
        lines = read_tail(log, limit=_LARGEST).decode(errors="replace").splitlines()
    except InputFileError:
        return found
    for line in map(parse, lines):
        if line.level == "INFO" and (begun := _SUPERVISOR.match(line.text)):
            found, ours = Restarts(), int(begun["pid"]) == pid
        elif ours and line.level == "WARNING" and (again := _AGAIN.match(line.text)):
            found = Restarts(count=found.count + 1, signal=again["signal"], time=line.time)
    return found


def is_refused(error: str) -> bool:
    """Return whether an error is permanent: the evidence or the release was rejected, so waiting does not help.

    Args:
        error: A line with ``error[CODE]``.
    """
    return f"error[{_UNREACHABLE}]" not in error and any(f"error[{code}" in error for code in _FINAL)
