"""Copy files, or change their owner or mode, whose names another user can replace at any moment.

A check of a path says nothing about the next call with the same path: whoever can write to the folder may put a
symbolic link, or another name of a foreign file, in its place between the two calls. So each entry is opened once, with
``O_PATH | O_NOFOLLOW`` relative to its opened folder, and everything else acts on that descriptor.

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
"""Folders below folders that are entered. sealserve makes five."""

_PART: Final = 1 << 20
_OPEN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A file or folder that is held open, whatever happens to its name.

    Args:
        path: The name under which it was found, for messages.
        descriptor: Opened with ``O_PATH``; valid until the next entry is asked for.
        status: What ``fstat`` returned for it.
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
        """Whether it is a regular file with one name: a second name may lie in a folder that is not ours."""
        return stat.S_ISREG(self.status.st_mode) and self.status.st_nlink == 1

    @property
    def kind(self) -> str:
        """What it is, for messages."""
        if stat.S_ISLNK(self.status.st_mode):
            return "a symbolic link"
        if stat.S_ISREG(self.status.st_mode):
            return "a file" if self.status.st_nlink == 1 else f"a file with {self.status.st_nlink} names"
        return "a folder" if self.is_folder else "a pipe, socket or device"

    def change_owner(self, uid: int, gid: int) -> None:
        """Set owner and group, if they differ."""
        if (self.status.st_uid, self.status.st_gid) != (uid, gid):
            os.chown(self._name, uid, gid)

    def change_mode(self, mode: int) -> None:
        """Set the permission bits, if they differ."""
        if stat.S_IMODE(self.status.st_mode) != mode:
            os.chmod(self._name, mode)  # noqa: PTH101  # the name of a descriptor

    def copy(self, destination: Path) -> None:
        """Write the content, if this is a regular file, to the new file ``destination``; whatever the name is by now.

        Raises:
            InputFileKindError: It is no regular file.
        """
        if not stat.S_ISREG(self.status.st_mode):
            raise InputFileKindError(
                f"{self.path} is {self.kind}, where a regular file was expected.", reason=f"it is {self.kind}"
            )
        descriptor = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as source, destination.open("xb") as copy:
            shutil.copyfileobj(source, copy, _PART)

    @property
    def _name(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"  # fchown(2) and fchmod(2) refuse a descriptor of O_PATH


def held(path: Path) -> Iterator[Held]:
    """Yield ``path``, held open, and nothing if it does not exist. Its last component is not followed if it is a link.

    The folders above it must belong to the caller.
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
    """Yield ``top`` and everything below it, each one held open, a folder before its content.

    Folders more than `MAX_DEPTH` below ``top`` are yielded but not entered.

    Args:
        top: A file or folder. The folders above it must belong to the caller.
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
            except FileNotFoundError:  # removed since
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
