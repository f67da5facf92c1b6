"""Listing of the regular files in a folder, in the same order on every machine. Links are never followed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import InputError
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import is_safe_relative


class TreeMissingError(InputError):
    """The folder does not exist."""

    code = "tree.missing"


@dataclass(frozen=True, slots=True)
class Listing:
    """The content of a folder. Paths are relative, with slashes, in ascending order.

    Attributes:
        files: Regular files.
        others: Links, pipes, sockets and devices.
        empty_folders: Folders without any entry.
    """

    files: tuple[str, ...]
    others: tuple[str, ...]
    empty_folders: tuple[str, ...]


def list_folder(folder: Path) -> Listing:
    """Return the content of ``folder``, including its subfolders, without following links.

    Raises:
        TreeMissingError: The folder does not exist.
        InputError: `tree.unreadable` if the operating system denies access to a folder.
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
        raise TreeMissingError(f"The folder {folder} does not exist.", hint="Check the path.") from error
    except OSError as error:
        raise SealingCode.TREE_UNREADABLE.error(
            f"The folder {error.filename or folder} cannot be listed: {error.strerror}.",
            hint="Check the permissions of the folder.",
        ) from error
    return Listing(tuple(sorted(files)), tuple(sorted(others)), tuple(sorted(empty)))


def regular_files(folder: Path) -> tuple[str, ...]:
    """Return the relative paths of the files below ``folder``, in ascending order. Empty folders are ignored.

    Raises:
        TreeMissingError: The folder does not exist.
        InputError: `tree.empty` if it contains no files.
        InputError: `tree.not-regular` if it contains a link or a special file.
        InputError: `tree.unusable-name` if a name has control characters or is not UTF-8, or a path exceeds 771 bytes.
    """
    listing = list_folder(folder)
    if listing.others:
        raise SealingCode.TREE_NOT_REGULAR.error(
            f"{folder / listing.others[0]} is not a regular file: only folders and regular files can be sealed.",
            hint="Replace a link with a copy of its target, or remove the special file.",
        )
    for path in listing.files:
        if not is_safe_relative(path):
            raise SealingCode.TREE_UNUSABLE_NAME.error(
                f"The name of a file in {folder} is not permitted in a release: {path!r}.",
                hint="Rename the file. Use printable UTF-8 characters and a path of at most 771 bytes.",
            )
    if not listing.files:
        raise SealingCode.TREE_EMPTY.error(f"The folder {folder} does not contain any files.", hint="Check the path.")
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
