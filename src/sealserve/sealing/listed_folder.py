"""Comparison of a folder with the files in a signed index."""

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
    """The differences between a folder and a list of files.

    Args:
        changed: Listed files whose size or digest differs, in the order of the list.
        missing: Listed files that do not exist, in the order of the list.
        extra: All unlisted entries in ascending order, including links, special files and empty folders.
        empty_folders: Folders without any entry, in ascending order.
    """

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    empty_folders: tuple[str, ...]


def compare(folder: Path, files: Iterable[ListedFile], *, known: Collection[str] = ()) -> Differences:
    """Compare ``folder`` with a list of files. A link at the path of a listed file counts as a missing file.

    Args:
        folder: The folder. The listed paths are relative to it.
        files: The expected files. The complete content of each file is read.
        known: Further paths that are permitted.

    Raises:
        TreeMissingError: The folder does not exist.
        InputFileError: A file was removed meanwhile, or cannot be read.
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
