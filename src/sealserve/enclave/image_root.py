"""The file system of an image, unpacked in a folder. All paths are inside the image, and no link leads out of it.

The same code reads the running machine, whose folder is ``/``.

Source: Linux manual pages path_resolution(7), symlink(7), and openat2(2), RESOLVE_IN_ROOT.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.enclave.codes import EnclaveCode

_MOST_LINKS: Final = 40  # the kernel's limit


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """A folder that holds the file system of an image, or of this machine.

    Args:
        folder: Its absolute path on this machine.

    Raises:
        InputError: `image-root.unusable`: The folder does not exist, or the path is not absolute.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_absolute() or not self.folder.is_dir():
            raise EnclaveCode.IMAGE_ROOT_UNUSABLE.error(
                f"{self.folder} is not an absolute path of a folder with the files of an image.",
                hint="Unpack the image into that folder, or omit --root to read this machine.",
            )

    @property
    def is_this_machine(self) -> bool:
        """Whether the folder is ``/``, the running machine's root."""
        return self.folder == Path("/")

    def locate(self, path: str) -> Path:
        """Return the path on this machine of the absolute ``path`` inside, with all links resolved. It may not exist.

        Raises:
            InputError: `image-root.unusable`: The path goes through more than 40 links.
        """
        place, links = self.folder, 0
        pending = deque(path.split("/"))
        while pending:
            part = pending.popleft()
            if part == "..":
                place = place if place == self.folder else place.parent
            elif part not in {"", "."}:
                step = place / part
                if not step.is_symlink():
                    place = step
                    continue
                if (links := links + 1) > _MOST_LINKS:
                    raise EnclaveCode.IMAGE_ROOT_UNUSABLE.error(
                        f"{path} in {self.folder} cannot be resolved: it goes through more than {_MOST_LINKS} links."
                    )
                target = str(step.readlink())
                place = self.folder if target.startswith("/") else place
                pending.extendleft(reversed(target.split("/")))
        return place

    def is_file(self, path: str) -> bool:
        """Return whether the absolute ``path`` inside is a regular file, or a link to a regular file."""
        return self.locate(path).is_file()

    def is_folder(self, path: str) -> bool:
        """Return whether the absolute ``path`` inside is a folder, or a link to a folder."""
        return self.locate(path).is_dir()

    def files(self, folder: str, *, deep: bool = True) -> Iterator[str]:
        """Yield the paths inside the image of the files in ``folder``, in arbitrary order.

        As in Gramine, a link to a file counts as a file under its own name. Links to folders are not followed.

        Args:
            folder: An absolute path inside.
            deep: Whether to include files in folders below it.

        Raises:
            InputError: `image-root.unusable`: A folder cannot be listed, or a name has an unprintable character.
        """
        pending = [folder.rstrip("/")]
        while pending:
            current = pending.pop()
            try:
                with os.scandir(self.locate(current)) as entries:
                    found = list(entries)
            except OSError as error:
                raise EnclaveCode.IMAGE_ROOT_UNUSABLE.error(
                    f"{current} in {self.folder} cannot be listed: {error.strerror}."
                ) from error
            for entry in found:
                path = f"{current}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if deep:
                        pending.append(path)
                elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and self.is_file(path)):
                    yield _checked(path)


def _checked(path: str) -> str:
    if not path.isprintable():
        raise EnclaveCode.IMAGE_ROOT_UNUSABLE.error(
            f"The file name {path!r} has a character that a manifest cannot contain.", hint="Rename or remove the file."
        )
    return path
