"""The file system of an image, unpacked in a folder: paths are those inside, and no link leads out of it.

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

_MOST_LINKS: Final = 40  # as the kernel


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """A folder that holds the file system of an image, or of this machine.

    Args:
        folder: Its place on this machine; absolute.

    Raises:
        InputError: `image-root.unusable`: There is no such folder.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_absolute() or not self.folder.is_dir():
            raise EnclaveCode.IMAGE_ROOT_UNUSABLE.error(
                f"{self.folder} is no folder with the files of an image.",
                hint="Unpack the image there, or leave --root out to read this machine.",
            )

    @property
    def is_this_machine(self) -> bool:
        """Whether it is the running machine's own root."""
        return self.folder == Path("/")

    def locate(self, path: str) -> Path:
        """Return where the absolute ``path`` inside is on this machine, every link followed. It may not exist.

        Raises:
            InputError: `image-root.unusable`: Too many links.
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
                    raise EnclaveCode.IMAGE_ROOT_UNUSABLE.error(f"{path} in {self.folder} goes through too many links.")
                target = str(step.readlink())
                place = self.folder if target.startswith("/") else place
                pending.extendleft(reversed(target.split("/")))
        return place

    def is_file(self, path: str) -> bool:
        """Return whether the absolute ``path`` inside is a regular file, or leads to one."""
        return self.locate(path).is_file()

    def is_folder(self, path: str) -> bool:
        """Return whether the absolute ``path`` inside is a folder, or leads to one."""
        return self.locate(path).is_dir()

    def files(self, folder: str, *, deep: bool = True) -> Iterator[str]:
        """Yield the paths inside of the files in ``folder``, in no order.

        A link to a file counts as a file of its own name, as for Gramine; links to folders are not followed.

        Args:
            folder: An absolute path inside.
            deep: Whether to look into folders below.

        Raises:
            InputError: `image-root.unusable`: The operating system does not let us look, or a name is not UTF-8.
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
            f"The file name {path!r} has a character that no manifest can have.", hint="Rename or remove the file."
        )
    return path
