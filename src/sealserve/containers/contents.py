"""The software in an image, read from its files and not from its recipe.

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

from sealserve.enclave.image_root import ImageRoot


class Ecosystem(StrEnum):
    """The origin of a package."""

    DEB = "deb"
    PYPI = "pypi"


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A package that is installed in an image.

    Args:
        ecosystem: Debian's or Python's.
        name: Its name.
        version: Its version.
        distribution: ``debian`` or ``ubuntu``. Only for deb packages.
        architecture: Its architecture. Only for deb packages.
    """

    ecosystem: Ecosystem
    name: str
    version: str
    distribution: str = ""
    architecture: str = ""

    @property
    def purl(self) -> str:
        """The package URL (purl)."""
        version = quote(self.version, safe="")
        if self.ecosystem is Ecosystem.PYPI:
            return f"pkg:pypi/{re.sub(r'[-_.]+', '-', self.name).lower()}@{version}"
        return f"pkg:deb/{self.distribution}/{quote(self.name, safe='')}@{version}?arch={self.architecture}"


def read_packages(root: Path) -> tuple[Package, ...]:
    """Return the packages that are installed in the image whose files are in ``root``, in order.

    Links of the image never lead out of it, and only regular files are read.

    Raises:
        InputError: `image-root.unusable` if a path in it cannot be followed.
    """
    if not root.is_dir():
        return ()
    image = ImageRoot(root)
    return tuple(sorted({*_deb_packages(image), *_python_packages(image)}))


def _deb_packages(image: ImageRoot) -> Iterator[Package]:
    distribution = _distribution(image)
    for paragraph in _text(image, "/var/lib/dpkg/status").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph.lstrip("\n"))
        if fields["Status"] == "install ok installed" and fields["Package"] and fields["Version"]:
            yield Package(
                Ecosystem.DEB, fields["Package"], fields["Version"], distribution, fields["Architecture"] or "all"
            )


def _python_packages(image: ImageRoot) -> Iterator[Package]:
    for metadata in image.folder.glob("opt/*/lib/python3*/site-packages/*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(_text(image, f"/{metadata.relative_to(image.folder)}"))
        if fields["Name"] and fields["Version"]:
            yield Package(Ecosystem.PYPI, fields["Name"], fields["Version"])


def _distribution(image: ImageRoot) -> str:
    for place in ("/usr/lib/os-release", "/etc/os-release"):
        found = re.search(r'^ID="?([a-z0-9._-]+)"?$', _text(image, place), re.MULTILINE)
        if found is not None:
            return found[1]
    return "debian"


def _text(image: ImageRoot, path: str) -> str:
    """Return the text of a file of the image, or "" if the file does not exist."""
    place = image.locate(path)
    return place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
