"""Safe copying and changing of files whose names another user can replace at any moment.

Checking a path does not protect the next call with the same path. A user with write access to the folder can replace
the path between two calls, with a symbolic link or with a hard link to another user's file. Therefore each entry is
opened once, with ``O_PATH | O_NOFOLLOW`` relative to its opened folder. All further operations use this descriptor.

Source: open(2) ``O_PATH``, openat(2) "Rationale for openat()", proc_pid_fd(5).
"""

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.regular_file import InputFileKindError

MAX_DEPTH: Final = 64
"""Maximum depth of nested folders that are entered. sealserve creates five levels."""

_PART: Final = 1 << 20
_OPEN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An opened file or folder, independent of later changes to its name.

    Args:
        path: The name under which it was found, for messages.
        descriptor: A descriptor with ``O_PATH``, valid until the next entry is requested.
        status: The result of ``fstat``.
    """

    path: Path
    descriptor: int
    status: os.stat_result

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_plain_file(self) -> bool:
        """Whether it is a regular file with one hard link. A second link may be in a folder of another user."""
        return stat.S_ISREG(self.status.st_mode) and self.status.st_nlink == 1

    @property
    def kind(self) -> str:
        """A description of the kind of file, for messages."""
        if stat.S_ISLNK(self.status.st_mode):
            return "a symbolic link"
        if stat.S_ISREG(self.status.st_mode):
            return "a file" if self.status.st_nlink == 1 else f"a file with {self.status.st_nlink} hard links"
        return "a folder" if self.is_folder else "a pipe, socket or device"

    def change_owner(self, uid: int, gid: int) -> None:
        """Set the owner and group, if they differ."""
        if (self.status.st_uid, self.status.st_gid) != (uid, gid):
            os.chown(self._name, uid, gid)

    def change_mode(self, mode: int) -> None:
        """Set the permission bits, if they differ."""
        if stat.S_IMODE(self.status.st_mode) != mode:
            os.chmod(self._name, mode)  # noqa: PTH101  # the name of a descriptor

    def copy(self, destination: Path) -> None:
        """Copy the content to the new file ``destination``, even if the name was replaced meanwhile.

        Raises:
            InputFileKindError: This is not a regular file.
        """
        if not stat.S_ISREG(self.status.st_mode):
            raise InputFileKindError(
                f"{self.path} is {self.kind}, but a regular file is expected.", reason=f"it is {self.kind}"
            )
        descriptor = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as source, destination.open("xb") as copy:
            shutil.copyfileobj(source, copy, _PART)

    @property
    def _name(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"  # fchown(2) and fchmod(2) do not accept an O_PATH descriptor


def held(path: Path) -> Iterator[Held]:
    """Yield the opened ``path``, or nothing if it does not exist. A link in its last component is not followed.

    The parent folders must belong to the caller.
    """
    try:
        descriptor = os.open(path, _OPEN)
    except FileNotFoundError:
        return
    try:
        yield Held(path=path, descriptor=descriptor, status=os.fstat(descriptor))
    finally:
        os.close(descriptor)


def held_tree(top: Path) -> Iterator[Held]:
    """Yield ``top`` and all entries below it, each opened, a folder before its content.

    Folders more than `MAX_DEPTH` levels below ``top`` are yielded but not entered.

    Args:
        top: A file or folder. Its parent folders must belong to the caller.
    """
    for found in held(top):
        yield found
        if found.is_folder:
            yield from _below(found, MAX_DEPTH)


def _below(folder: Held, depth: int) -> Iterator[Held]:
    if depth == 0:
        return
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder.descriptor)
    try:
        for name in sorted(os.listdir(readable)):  # noqa: PTH208  # a descriptor
            try:
                descriptor = os.open(name, _OPEN, dir_fd=readable)
            except FileNotFoundError:  # removed meanwhile
                continue
            try:
                found = Held(path=folder.path / name, descriptor=descriptor, status=os.fstat(descriptor))
                yield found
                if found.is_folder:
                    yield from _below(found, depth - 1)
            finally:
                os.close(descriptor)
    finally:
        os.close(readable)
