"""What a replica's launcher wrote down: one line for each step, with its evidence, and the error that ended it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sealserve.regular_file import InputFileError, read_tail

_LINE = re.compile(r"^(?P<time>\S+ \S+) INFO step=(?P<name>\S+) ?(?P<evidence>.*)$")
_SUPERVISOR = re.compile(r"^\S+ \S+ INFO step=supervisor pid=(?P<pid>\d+) ")
_AGAIN = re.compile(r"^(?P<time>\S+ \S+) WARNING step=again after=\S+ failed=\d+ signal=(?P<signal>\w+)$")
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


def read_restarts(log: Path, pid: int) -> tuple[int, str]:
    """Return how often a supervisor has started its enclave again, and words for a person on the last time.

    Args:
        log: The replica's log.
        pid: The supervisor's process.
    """
    count, words, ours = 0, "", False
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return count, words
    for line in lines:
        if found := _SUPERVISOR.match(line):
            count, words, ours = 0, "", int(found["pid"]) == pid
        elif (found := _AGAIN.match(line)) and ours:
            count += 1
            words = f"{found['signal']} ended the server at {found['time'].partition(',')[0]}"
    return count, words


def is_refused(error: str) -> bool:
    """Return whether an error is one that no waiting mends: the evidence, or the release, was turned down.

    Args:
        error: A line with ``error[CODE]``.
    """
    return f"error[{_UNREACHABLE}]" not in error and any(f"error[{code}" in error for code in _FINAL)
