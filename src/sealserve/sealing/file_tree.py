"""What a folder holds: its regular files, in one order on every machine; nothing else is followed or let through."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import InputError
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import is_safe_relative


class TreeMissingError(InputError):
    """There is no such folder."""

    code = "tree.missing"


@dataclass(frozen=True, slots=True)
class Listing:
    """What is below a folder. Paths are relative, with slashes, in ascending order.

    Attributes:
        files: Regular files.
        others: Links, pipes, sockets, devices.
        empty_folders: Folders with nothing in them.
    """

    files: tuple[str, ...]
    others: tuple[str, ...]
    empty_folders: tuple[str, ...]


def list_folder(folder: Path) -> Listing:
    """Return what is below ``folder``, without following links.

    Raises:
        TreeMissingError: No such folder.
        InputError: `tree.unreadable`: The operating system refuses.
    """
    files: list[str] = []
    others: list[str] = []
    empty: list[str] = []
    try:
        for path, entry in _walk(folder):
            if entry is None:
                empty.append(path)
            elif entry.is_file(follow_symlinks=False):
                files.append(path)
            else:
                others.append(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TreeMissingError(f"There is no folder {folder}.") from error
    except OSError as error:
        raise SealingCode.TREE_UNREADABLE.error(
            f"{error.filename or folder} cannot be listed: {error.strerror}."
        ) from error
    return Listing(tuple(sorted(files)), tuple(sorted(others)), tuple(sorted(empty)))


def regular_files(folder: Path) -> tuple[str, ...]:
    """Return the paths of the files below ``folder``, relative and in ascending order. Empty folders do not count.

    Raises:
        TreeMissingError: No such folder.
        InputError: `tree.empty`: No file in it.
        InputError: `tree.not-regular`: A link or special file in it.
        InputError: `tree.unusable-name`: A name with control characters, not in UTF-8, or a path over 771 bytes.
    """
    listing = list_folder(folder)
    if listing.others:
        raise SealingCode.TREE_NOT_REGULAR.error(
            f"{folder / listing.others[0]} is a link or special file; only folders and regular files are sealed.",
            hint="Replace it by a copy of what it points to.",
        )
    for path in listing.files:
        if not is_safe_relative(path):
            raise SealingCode.TREE_UNUSABLE_NAME.error(
                f"{folder} has a file with an unusable name: {path!r}.", hint="Rename it."
            )
    if not listing.files:
        raise SealingCode.TREE_EMPTY.error(f"There is no file in {folder}.")
    return listing.files


def _walk(folder: Path) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
    pending = [(os.fspath(folder), "")]
    while pending:
        current, prefix = pending.pop()
        with os.scandir(current) as entries:
            found = list(entries)
        if not found and prefix:
            yield prefix.rstrip("/"), None
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                pending.append((entry.path, f"{prefix}{entry.name}/"))
            else:
                yield f"{prefix}{entry.name}", entry
