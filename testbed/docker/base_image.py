"""A base image as slim as Debian's own, made of the distribution's packages: no registry is needed for it.

Source: debootstrap(8); docs.docker.com/reference/cli/docker/image/import; what debian:12-slim leaves out is in
github.com/debuerreotype/debuerreotype, scripts/.slimify-excludes.
"""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
BASE: Final = "sealserve-test-base:bookworm"
_LEFT_OUT: Final = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian",
                    "var/cache/apt", "var/lib/apt/lists", "var/log")  # fmt: skip
_SOURCES: Final = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))


class MirrorMissingError(Exception):
    """apt on this machine has no mirror of Debian."""


def make_base_image(archive: Path) -> None:
    """Import the base image into the engine, unless it has it of this archive.

    Args:
        archive: Where its files are kept, as a tar archive, for the next time.
    """
    there = subprocess.run(["docker", "image", "inspect", BASE], capture_output=True, check=False).returncode == 0
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        _bootstrap(archive)
    elif there:
        return
    subprocess.run(["docker", "import", str(archive), BASE], capture_output=True, check=True)


def _bootstrap(archive: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sealserve-base-") as name:
        root = Path(name) / "root"
        subprocess.run(
            ["debootstrap", "--variant=minbase", SUITE, str(root), mirror()], capture_output=True, check=True
        )
        for folder in _LEFT_OUT:
            subprocess.run(["find", str(root / folder), "-type", "f", "-delete"], capture_output=True, check=False)
        partial = archive.with_suffix(".partial")
        subprocess.run(["tar", "--create", "--file", str(partial), "--directory", str(root), "."], check=True)
        partial.replace(archive)


def mirror(sources: Sequence[Path] = _SOURCES) -> str:
    """Return the mirror from which this machine takes its own packages of the distribution.

    Args:
        sources: apt's list of sources, and its folder of such lists (sources.list(5)).

    Raises:
        MirrorMissingError: apt has no source of Debian.
    """
    for place in sources:
        for path in sorted(place.glob("*")) if place.is_dir() else [place]:
            if path.is_file():
                text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
                found = re.search(r"https?://\S+/debian/?(?=\s|$)", text)
                if found is not None:
                    return found[0]
    raise MirrorMissingError(
        f"No Debian mirror in {' or '.join(map(str, sources))}: the base image of the tests is made of its packages."
    )
