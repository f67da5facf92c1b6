"""What software an image has: read from its files, not from what its recipe asked for.

Source: dpkg(1) and deb-control(5), ``/var/lib/dpkg/status`` (``Package``, ``Version``, ``Status``); Python packaging,
"Recording installed projects" (``*.dist-info/METADATA``); purl-spec, types deb and pypi.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote


class Ecosystem(StrEnum):
    """Where a package comes from."""

    DEB = "deb"
    PYPI = "pypi"


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A package that is installed in an image.

    Args:
        ecosystem: Debian's or Python's.
        name: Its name.
        version: Its version.
        distribution: ``debian`` or ``ubuntu``, for deb packages.
        architecture: For deb packages.
    """

    ecosystem: Ecosystem
    name: str
    version: str
    distribution: str = ""
    architecture: str = ""

    @property
    def purl(self) -> str:
        """Its package URL."""
        version = quote(self.version, safe="")
        if self.ecosystem is Ecosystem.PYPI:
            return f"pkg:pypi/{re.sub(r'[-_.]+', '-', self.name).lower()}@{version}"
        return f"pkg:deb/{self.distribution}/{quote(self.name, safe='')}@{version}?arch={self.architecture}"


def read_packages(root: Path) -> tuple[Package, ...]:
    """Return the packages that are installed in the image whose files are in ``root``, in order."""
    return tuple(sorted({*_deb_packages(root), *_python_packages(root)}))


def _deb_packages(root: Path) -> Iterator[Package]:
    status = root / "var/lib/dpkg/status"
    if not status.is_file():
        return
    distribution = _distribution(root)
    for paragraph in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph.lstrip("\n"))
        if fields["Status"] == "install ok installed":
            yield Package(
                Ecosystem.DEB, fields["Package"], fields["Version"], distribution, fields["Architecture"] or "all"
            )


def _python_packages(root: Path) -> Iterator[Package]:
    for metadata in root.glob("opt/*/lib/python3*/site-packages/*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(metadata.read_text(encoding="utf-8", errors="replace"))
        yield Package(Ecosystem.PYPI, fields["Name"], fields["Version"])


def _distribution(root: Path) -> str:
    for place in ("usr/lib/os-release", "etc/os-release"):
        path = root / place
        if path.is_file() and not path.is_symlink():
            found = re.search(r'^ID="?([a-z0-9._-]+)"?$', path.read_text(encoding="utf-8"), re.MULTILINE)
            if found is not None:
                return found[1]
    return "debian"
