"""The locked Python packages of an image, and their wheels: downloaded outside the image, each verified by its hash.

So an image never contains a package index or its CA certificates, and the build needs no network for Python packages.
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

_TENSORFLOW: Final = ("tensorflow-cpu", "tensorflow-serving-api")  # the library and the messages, without Keras
_HTTP: Final = (
    "aiohappyeyeballs", "aiohttp", "aiosignal", "attrs", "frozenlist", "multidict", "propcache", "yarl",
)  # fmt: skip
SERVER_ONLY: Final = (*_HTTP, *_TENSORFLOW)
"""Packages of the server's image besides the base set: aiohttp, and TensorFlow without its Python dependencies."""
BROKER_ONLY: Final = ("asn1crypto", "python-pkcs11")
"""Packages of the broker's image besides the base set: for PKCS#11 tokens. No other image has an interface to them."""

_NEWEST_GLIBC: Final = {"3.11": 36, "3.12": 39}
"""The minor version of glibc 2 in Debian 12 and Ubuntu 24.04, by the Python version of the distribution."""

_MARKER: Final = re.compile(r" ; [^\\\n]+")
"""An environment marker in a lock file.

pip would evaluate it on the machine that downloads the wheels, but the image is always for x86-64 Linux.
"""

_ENTRY: Final = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)


def requirements(packages: Packages) -> str:
    """Return the lock file of an image: each package with its version and the hashes of its wheels."""
    if packages is Packages.NONE:
        return ""
    text = _lock("base")
    extra = {Packages.SERVER: ("server", SERVER_ONLY), Packages.BROKER: ("pkcs11", BROKER_ONLY)}
    if packages in extra:
        lock, names = extra[packages]
        locked = _entries(_lock(lock))
        text += "".join(_MARKER.sub(" ", locked[name]) for name in names)
    return text


def locked_versions(packages: Packages) -> dict[str, str]:
    """Return the name and version of each locked package of an image."""
    return {found["name"]: found["version"] for found in _ENTRY.finditer(requirements(packages))}


def fetch_wheels(packages: Packages, folder: Path, *, python: str) -> None:
    """Download the wheels of an image's packages into ``folder``, from the index that pip is configured with.

    Args:
        packages: The packages.
        folder: Folder for the wheels. Wheels with the correct hash that already exist are not downloaded again.
        python: The image's Python version, such as ``3.11``.

    Raises:
        UnavailableError: `image.wheels` if a wheel cannot be downloaded, or does not match its locked hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    newest = _NEWEST_GLIBC.get(python, min(_NEWEST_GLIBC.values()))
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 4, -1)]
    tags = [f"--platform={name}" for name in (*platforms, "manylinux2014_x86_64", "manylinux2010_x86_64")]
    with NamedTemporaryFile("w", encoding="utf-8", prefix="sealserve-", suffix=".lock") as lock:
        lock.write(requirements(packages))
        lock.flush()
        command = [
            sys.executable, "-P",  # use the pip of this installation, not a module in the current folder
            "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet", "--no-deps",
            "--require-hashes",
            "--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *tags,
            f"--find-links={folder}", f"--dest={folder}", f"--requirement={lock.name}",
        ]  # fmt: skip
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
        )
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["pip printed no reason."]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise ContainersCode.IMAGE_WHEELS.error(
            f"The wheels for the images cannot be downloaded: {reason.removeprefix('ERROR: ')}",
            hint="Install pip, and connect this machine to a Python package index. Or put the wheels into a folder and "
            "pass it with --wheels.",
        )


def _lock(name: str) -> str:
    return (files("sealserve.containers") / "locks" / f"{name}.lock").read_text(encoding="utf-8")


def _entries(lock: str) -> dict[str, str]:
    starts = [found.start() for found in _ENTRY.finditer(lock)]
    blocks = [lock[start:end] for start, end in zip(starts, [*starts[1:], len(lock)], strict=True)]
    return {found["name"]: block for block in blocks if (found := _ENTRY.match(block)) is not None}
