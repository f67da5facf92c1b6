"""Compares a folder with the files that a signed index lists."""

import hashlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from sealserve.canonical_document import ListedFile
from sealserve.regular_file import open_regular
from sealserve.sealing.file_tree import list_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """How a folder differs from its list.

    Args:
        changed: Listed files with another size or digest, in the list's order.
        missing: Listed files that are not there, in the list's order.
        extra: Everything that is there and not listed, in ascending order: links, special files and empty folders too.
        empty_folders: The folders with nothing in them, in ascending order.
    """

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    empty_folders: tuple[str, ...]


def compare(folder: Path, files: Iterable[ListedFile], *, known: Collection[str] = ()) -> Differences:
    """Return how ``folder`` differs from a list of files. A link in the place of a listed file counts as missing.

    Args:
        folder: What the paths are relative to.
        files: What should be there. Each file's whole content is read.
        known: Paths that may be there besides.

    Raises:
        TreeMissingError: There is no such folder.
        InputFileError: A file was removed, or cannot be read.
    """
    listing = list_folder(folder)
    present, listed = set(listing.files), {file.path: file for file in files}
    return Differences(
        changed=tuple(path for path, file in listed.items() if path in present and not _matches(folder, file)),
        missing=tuple(path for path in listed if path not in present),
        extra=tuple(sorted({*listing.files, *listing.others, *listing.empty_folders} - {*listed, *known})),
        empty_folders=listing.empty_folders,
    )


def _matches(folder: Path, file: ListedFile) -> bool:
    with (
        open_regular(folder / file.path, follow_links=False) as descriptor,
        open(descriptor, "rb", buffering=0, closefd=False) as stream,
    ):
        if os.fstat(descriptor).st_size != file.size:
            return False
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
