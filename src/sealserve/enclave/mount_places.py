"""Where a path inside the enclave leads, by the mounts of a manifest that may be malformed.

Gramine takes the mount with the longest matching path. A path that is not absolute and normalised leads nowhere here:
nothing that sealserve writes has one.
"""

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Self


def is_plain(path: str) -> bool:
    """Return whether a path is absolute and normalised. POSIX lets two leading slashes mean something else."""
    return path.startswith("/") and not path.startswith("//") and posixpath.normpath(path) == path


@dataclass(frozen=True, slots=True)
class MountPlaces:
    """The mounts of a manifest, by their paths.

    Args:
        types: The type of each.
        sources: The path outside the enclave of each that has one.
    """

    types: Mapping[str, str]
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, mounts: Iterable[Any]) -> Self:
        """Return the places of ``fs.mounts``; an entry that is not a mount is ignored."""
        types: dict[str, str] = {}
        sources: dict[str, str] = {}
        for mount in mounts:
            if isinstance(mount, Mapping) and isinstance(mount.get("path"), str):
                types[mount["path"]] = str(mount.get("type", "chroot"))
                if isinstance(mount.get("uri"), str):
                    sources[mount["path"]] = mount["uri"].removeprefix("file:").rstrip("/")
        return cls(types, sources)

    def type_of(self, path: str) -> str | None:
        """Return the type of the mount that has ``path``, or None."""
        place = self._mount_of(path)
        return None if place is None else self.types[place]

    def file_name(self, path: str) -> str:
        """Return the name that the file at ``path`` has outside the enclave; inside, a mount may give it another."""
        place = self._mount_of(path)
        outside = path if place is None else self.sources.get(place, place) + path.removeprefix(place)
        return posixpath.basename(outside)

    def _mount_of(self, path: str) -> str | None:
        if not is_plain(path):
            return None
        parents = (str(place) for place in (PurePosixPath(path), *PurePosixPath(path).parents))
        return next((place for place in parents if place in self.types), None)

    def is_sealed(self, path: str) -> bool:
        """Return whether a file at ``path`` is a sealed one."""
        return self.type_of(path) == "encrypted"

    def is_trusted(self, path: str) -> bool:
        """Return whether a file at ``path`` is one of the host's, which Gramine opens only if it is measured."""
        return self.type_of(path) == "chroot"

    def is_scratch(self, path: str) -> bool:
        """Return whether ``path`` is in the enclave's memory."""
        return self.type_of(path) == "tmpfs"
