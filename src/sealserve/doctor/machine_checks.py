"""Checks that apply to every machine: Python, TensorFlow and disk space."""

import importlib.util
import platform
import shutil
from pathlib import Path

from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.workspace import Workspace

FREE_BYTES = 2 * 10**9


def python(machine: Machine) -> Finding:
    """Return the Python version of this machine."""
    return Finding(machine=machine, name="Python", verdict=Verdict.OK, found=platform.python_version())


def tensorflow(machine: Machine, purpose: str) -> Finding:
    """Check whether TensorFlow is installed. ``purpose`` is the reason that this machine needs it."""
    there = importlib.util.find_spec("tensorflow") is not None
    return Finding(
        machine=machine,
        name="TensorFlow",
        verdict=Verdict.OK if there else Verdict.MISSING,
        found=f"installed ({purpose})" if there else f"not installed ({purpose})",
        remedy="" if there else "run `pip install 'sealserve[server]'`, or `make setup` in a checkout",
    )


def disk(machine: Machine, workspace: Workspace | None) -> Finding:
    """Check whether the disk has enough free space for a release (2 GB)."""
    folder = workspace.directory if workspace else Path.cwd()
    free = shutil.disk_usage(folder).free
    enough = free >= FREE_BYTES
    return Finding(
        machine=machine,
        name="disk",
        verdict=Verdict.OK if enough else Verdict.NOTE,
        found=f"{free / 1e9:.1f} GB free in {folder}",
        remedy="" if enough else "free up space: a release is as large as its model, and twice that while it is copied",
    )
