"""The files that settings of the broker name. A broker in a container gets each of these files separately."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.deployment.whole import Deployment

SETTING_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "keystore": ("passphrase_file", "transit_token_file", "transit_ca_file"),
    "database": ("password_file", "ca_file"),
}
"""The settings of each section that name a file. A PKCS#11 module is not a file that can be copied alone."""

_PUBLIC: Final = frozenset({"transit_ca_file", "ca_file"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingFile:
    """A file that a setting names.

    Args:
        section: The section, such as ``keystore``.
        name: The setting, such as ``transit_token_file``.
        path: The file on this machine.
    """

    section: str
    name: str
    path: Path

    @property
    def place(self) -> str:
        """The path of the file for a broker in the cluster, below ``.sealserve/``."""
        return f"settings/{self.section}/{self.name}"

    @property
    def is_private(self) -> bool:
        """Whether the file contains a secret."""
        return self.name not in _PUBLIC


def setting_files(described: Deployment) -> Iterator[SettingFile]:
    """Yield the files that the settings of a deployment name."""
    for section, names in SETTING_FILES.items():
        for name in names:
            path: Path | None = getattr(getattr(described, section), name)
            if path is not None:
                yield SettingFile(section=section, name=name, path=path)
