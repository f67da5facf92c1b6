"""Resolution of paths inside the enclave by the mounts of a manifest, which may be malformed.

As in Gramine, the mount with the longest matching path counts. A path that is not absolute and normalized resolves to
no mount, because sealserve never writes such a path.
"""

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Self


def is_plain(path: str) -> bool:
    """Return whether a path is absolute and normalized.

    A path with two leading slashes is not accepted, because POSIX lets systems interpret it differently.
    """
    return path.startswith("/") and not path.startswith("//") and posixpath.normpath(path) == path


@dataclass(frozen=True, slots=True)
class MountPlaces:
    """The mounts of a manifest, by their paths.

    Args:
        types: The type of each mount.
        sources: The path outside the enclave, for each mount that has one.
    """

    types: Mapping[str, str]
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, mounts: Iterable[Any]) -> Self:
        """Return the mounts of ``fs.mounts``. An entry that is not a mount is ignored."""
        types: dict[str, str] = {}
        sources: dict[str, str] = {}
        for mount in mounts:
            if isinstance(mount, Mapping) and isinstance(mount.get("path"), str):
                types[mount["path"]] = str(mount.get("type", "chroot"))
                if isinstance(mount.get("uri"), str):
                    sources[mount["path"]] = mount["uri"].removeprefix("file:").rstrip("/")
        return cls(types, sources)

    def type_of(self, path: str) -> str | None:
        """Return the type of the mount that contains ``path``, or None."""
        place = self._mount_of(path)
        return None if place is None else self.types[place]

    def file_name(self, path: str) -> str:
        """Return the name outside the enclave of the file at ``path``. A mount can give it a different name inside."""
        place = self._mount_of(path)
        outside = path if place is None else self.sources.get(place, place) + path.removeprefix(place)
        return posixpath.basename(outside)

    def _mount_of(self, path: str) -> str | None:
        if not is_plain(path):
            return None
        parents = (str(place) for place in (PurePosixPath(path), *PurePosixPath(path).parents))
        return next((place for place in parents if place in self.types), None)

    def is_sealed(self, path: str) -> bool:
        """Return whether a file at ``path`` is sealed."""
        return self.type_of(path) == "encrypted"

    def shows_sealed(self, folder: str) -> bool:
        """Return whether an encrypted mount shows a folder of the release, at any path."""
        return any(
            kind == "encrypted" and PurePosixPath(self.sources.get(path, "")).parts[:1] == (folder,)
            for path, kind in self.types.items()
        )

    def is_trusted(self, path: str) -> bool:
        """Return whether a file at ``path`` is a file of the host, which Gramine opens only if it is measured."""
        return self.type_of(path) == "chroot"

    def is_scratch(self, path: str) -> bool:
        """Return whether ``path`` is in the enclave's memory."""
        return self.type_of(path) == "tmpfs"
