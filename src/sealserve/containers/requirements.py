"""The locked Python packages of an image, and their wheels: fetched outside of the image, each checked by its hash.

So no index and no certificate authority is ever in an image, and the build needs no network for them.
"""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from sealserve.containers.codes import ContainersCode
from sealserve.containers.recipes import Packages

_TENSORFLOW: Final = ("tensorflow-cpu", "tensorflow-serving-api")  # its library and messages; no Keras
_HTTP: Final = (
    "aiohappyeyeballs", "aiohttp", "aiosignal", "attrs", "frozenlist", "multidict", "propcache", "yarl",
)  # fmt: skip
SERVER_ONLY: Final = (*_HTTP, *_TENSORFLOW)
"""What the server's image has beside the base set: TensorFlow without what only Python's half needs, and aiohttp."""

_NEWEST_GLIBC: Final = {"3.11": 36, "3.12": 39}
"""Debian 12 and Ubuntu 24.04: the minor version of glibc 2, by the version of Python that the distribution has."""

_MARKER: Final = re.compile(r" ; [^\\\n]+")
"""An environment marker in a lock file.

pip would evaluate it on the machine that fetches the wheels, but the image is always for x86-64 Linux.
"""

_ENTRY: Final = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)


def requirements(packages: Packages) -> str:
    """Return the lock file of an image: each package with its version and the hashes of its wheels."""
    if packages is Packages.NONE:
        return ""
    text = _lock("base")
    if packages is Packages.SERVER:
        locked = _entries(_lock("server"))
        text += "".join(_MARKER.sub(" ", locked[name]) for name in SERVER_ONLY)
    return text


def locked_versions(packages: Packages) -> dict[str, str]:
    """Return the name and version of each locked package of an image."""
    return {found["name"]: found["version"] for found in _ENTRY.finditer(requirements(packages))}


def fetch_wheels(packages: Packages, folder: Path, *, python: str) -> None:
    """Bring the wheels of an image's packages into ``folder``, from the index that pip is set to.

    Args:
        packages: Which.
        folder: Where they go; what is there already, with the right hash, is not fetched again.
        python: The image's Python, as ``3.11``.

    Raises:
        UnavailableError: `image.wheels`: One cannot be had, or is not what was locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    newest = _NEWEST_GLIBC.get(python, min(_NEWEST_GLIBC.values()))
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 4, -1)]
    tags = [f"--platform={name}" for name in (*platforms, "manylinux2014_x86_64", "manylinux2010_x86_64")]
    with NamedTemporaryFile("w", encoding="utf-8", prefix="sealserve-", suffix=".lock") as lock:
        lock.write(requirements(packages))
        lock.flush()
        command = [
            sys.executable, "-P",  # the pip of this installation, not one in the folder that we are called in
            "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet", "--no-deps",
            "--require-hashes",
            "--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *tags,
            f"--find-links={folder}", f"--dest={folder}", f"--requirement={lock.name}",
        ]  # fmt: skip
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
        )
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["pip said nothing."]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise ContainersCode.IMAGE_WHEELS.error(
            f"The wheels for the images cannot be had: {reason.removeprefix('ERROR: ')}",
            hint="This needs pip, and a network that reaches a Python package index or the wheels in the folder of "
            "--wheels.",
        )


def _lock(name: str) -> str:
    return (files("sealserve.containers") / "locks" / f"{name}.lock").read_text(encoding="utf-8")


def _entries(lock: str) -> dict[str, str]:
    starts = [found.start() for found in _ENTRY.finditer(lock)]
    blocks = [lock[start:end] for start, end in zip(starts, [*starts[1:], len(lock)], strict=True)]
    return {found["name"]: block for block in blocks if (found := _ENTRY.match(block)) is not None}
