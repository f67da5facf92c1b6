"""What every part needs of its machine: Python, TensorFlow, room on the disk."""

import importlib.util
import platform
import shutil
from pathlib import Path

from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.workspace import Workspace

FREE_BYTES = 2 * 10**9


def python(machine: Machine) -> Finding:
    """Return which Python runs here."""
    return Finding(machine=machine, name="Python", verdict=Verdict.OK, found=platform.python_version())


def tensorflow(machine: Machine, purpose: str) -> Finding:
    """Judge whether TensorFlow is installed, which this machine needs for ``purpose``."""
    there = importlib.util.find_spec("tensorflow") is not None
    return Finding(
        machine=machine,
        name="TensorFlow",
        verdict=Verdict.OK if there else Verdict.MISSING,
        found=f"installed ({purpose})" if there else f"not installed ({purpose})",
        remedy="" if there else "`pip install 'sealserve[server]'`, or `make setup` in a checkout",
    )


def disk(machine: Machine, workspace: Workspace | None) -> Finding:
    """Judge whether there is room for a release."""
    folder = workspace.directory if workspace else Path.cwd()
    free = shutil.disk_usage(folder).free
    enough = free >= FREE_BYTES
    return Finding(
        machine=machine,
        name="disk",
        verdict=Verdict.OK if enough else Verdict.NOTE,
        found=f"{free / 1e9:.1f} GB free in {folder}",
        remedy="" if enough else "a release takes as much room as its model, twice while it travels",
    )
