"""Unpack files of a Debian package without installing it. The test programs need neither root nor a service."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class UnavailableError(Exception):
    """A package cannot be downloaded. The message is the reason."""


def unpack(package: str, files: Mapping[str, Path]) -> str | None:
    """Download a package of the distribution, and copy files of it. Return the reason for a failure, or None.

    Args:
        package: The package's name.
        files: The destination of each file, by its path in the package.
    """
    try:
        with downloaded(package) as folder:
            for path, destination in files.items():
                destination.parent.mkdir(parents=True, exist_ok=True)
                whole = destination.with_suffix(".new")
                shutil.copy2(folder / path, whole)
                whole.replace(destination)
    except UnavailableError as error:
        return str(error)
    return None


@contextlib.contextmanager
def downloaded(package: str, *, with_dependencies: bool = False) -> Iterator[Path]:
    """Yield a temporary folder with the files of a package of the distribution.

    Args:
        package: The package's name.
        with_dependencies: Add the files of the packages that it needs and that are not installed.

    Raises:
        UnavailableError: The package cannot be downloaded.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise UnavailableError("this machine has no apt-get to download it")
    with tempfile.TemporaryDirectory(prefix=f"sealserve-{package}-") as folder:
        (Path(folder) / "partial").mkdir()
        command = _with_dependencies(package, folder) if with_dependencies else _alone(package)
        if (result := _run(command, folder)).returncode != 0:  # the package lists are missing or outdated
            subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=False)
            result = _run(command, folder)
        packages = sorted(Path(folder).glob("*.deb"))
        if result.returncode != 0 or not packages:
            reason = (result.stderr.strip().splitlines() or ["no reason"])[-1]
            raise UnavailableError(f"Debian's package cannot be downloaded: {reason}")
        unpacked = Path(folder) / "unpacked"
        for archive in packages:
            subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
        yield unpacked


def _alone(package: str) -> Sequence[str]:
    # Only root can write to the folder, so apt's own user must not do the download.
    return ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]


def _with_dependencies(package: str, folder: str) -> Sequence[str]:
    return ["apt-get", "-q", "-y", "-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=",
            "-o", f"Dir::Cache::archives={folder}", "install", "--download-only", "--no-install-recommends",
            package]  # fmt: skip


def _run(command: Sequence[str], folder: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
