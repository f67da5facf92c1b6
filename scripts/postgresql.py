"""Provide a PostgreSQL server for tests: this machine's, or the distribution's, unpacked into ``build/``.

The server of the distribution is not installed, and no service of this machine changes.

Source: https://packages.debian.org/bookworm/postgresql (``/usr/lib/postgresql/VERSION/bin``).
"""

import os
import shutil
from pathlib import Path

from scripts.debian_package import UnavailableError, downloaded
from scripts.provide import provide

UNPACKED = Path(__file__).resolve().parent.parent / "build" / "postgresql"
BY_HAND = "apt-get install --no-install-recommends postgresql"


def main() -> None:
    """Unpack the server unless it is available."""
    provide("PostgreSQL", __doc__, is_available=lambda: programs() is not None, install=unpack, place=UNPACKED)


def programs() -> Path | None:
    """Return the folder with ``initdb`` and ``postgres``: the newest version, or None."""
    found = [
        folder
        for root in (Path("/"), UNPACKED)
        for pattern in ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
        for folder in root.glob(pattern)
        if (folder / "initdb").exists() and (folder / "postgres").exists()
    ]
    if found:
        return max(found, key=lambda folder: float("".join(c for c in folder.parent.name if c.isdigit() or c == ".")))
    beside = shutil.which("initdb")
    return None if beside is None else Path(beside).resolve().parent


def environment(folder: Path) -> dict[str, str]:
    """Return the environment for the programs in ``folder``: the unpacked server has its own libraries."""
    if not folder.is_relative_to(UNPACKED):
        return dict(os.environ)
    libraries = [str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu*")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}


def unpack() -> str | None:
    """Unpack the server with the libraries that this machine lacks. Return the reason for a failure, or None."""
    try:
        with downloaded("postgresql", with_dependencies=True) as folder:
            whole = UNPACKED.with_name(f"{UNPACKED.name}.new")
            shutil.rmtree(whole, ignore_errors=True)
            shutil.copytree(folder, whole, symlinks=True)  # `build` does not exist yet in a new checkout
            shutil.rmtree(UNPACKED, ignore_errors=True)
            whole.rename(UNPACKED)
    except UnavailableError as error:
        return f"{error}. To install it as root: {BY_HAND}"
    return None


if __name__ == "__main__":
    main()
