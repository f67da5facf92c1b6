"""A base image as small as Debian's slim image, built from the distribution's packages without a registry.

Source: debootstrap(8); docs.docker.com/reference/cli/docker/image/import; github.com/debuerreotype/debuerreotype,
scripts/.slimify-excludes (files that debian:12-slim omits).
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
    """apt on this machine is not configured with a Debian mirror."""


def make_base_image(archive: Path) -> None:
    """Import the base image into the engine, unless the engine has it and the archive exists.

    Args:
        archive: A tar archive that keeps the image's files for the next run.
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
    """Return the Debian mirror that this machine's apt uses.

    Args:
        sources: apt's list of sources, and its folder with such lists (sources.list(5)).

    Raises:
        MirrorMissingError: apt has no Debian source.
    """
    for place in sources:
        for path in sorted(place.glob("*")) if place.is_dir() else [place]:
            if path.is_file():
                text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
                found = re.search(r"https?://\S+/debian/?(?=\s|$)", text)
                if found is not None:
                    return found[0]
    raise MirrorMissingError(
        f"The base image of the tests cannot be built: {' and '.join(map(str, sources))} name no Debian mirror."
    )
