"""What a replica's launcher wrote down: one line for each step, with its evidence, and the error that ended it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sealserve.regular_file import InputFileError, read_tail

_LINE = re.compile(r"^(?P<time>\S+ \S+) INFO step=(?P<name>\S+) ?(?P<evidence>.*)$")
_TIME = "%Y-%m-%d %H:%M:%S,%f"
_LARGEST = 64 * 2**20  # a replica that serves for months writes few lines
FIRST = "measured"
_UNREACHABLE = "release.store-unreachable"
_FINAL = ("provisioning.refused", "release.", "release-index.", "enclave.", "measurement.", "sealing.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchStep:
    """A step: its name, when it was done (local time), and its evidence as text."""

    name: str
    time: datetime
    evidence: Mapping[str, str]


def read_steps(log: Path) -> list[LaunchStep]:
    """Return the steps of the last start that ``log`` tells of, in order."""
    steps: list[LaunchStep] = []
    try:
        lines = read_tail(log, limit=_LARGEST).decode(errors="replace").splitlines()
    except InputFileError:
        return steps
    for line in lines:
        if (found := _LINE.match(line)) is None:
            continue
        if found["name"] == FIRST:
            steps = []
        evidence = dict(item.split("=", 1) for item in found["evidence"].split() if "=" in item)
        time = datetime.strptime(found["time"], _TIME)  # noqa: DTZ007  # local on purpose: only differences count
        steps.append(LaunchStep(name=found["name"], time=time, evidence=evidence))
    return steps


def is_refused(error: str) -> bool:
    """Return whether an error is one that no waiting mends: the evidence, or the release, was turned down.

    Args:
        error: A line with ``error[CODE]``.
    """
    return f"error[{_UNREACHABLE}]" not in error and any(f"error[{code}" in error for code in _FINAL)
