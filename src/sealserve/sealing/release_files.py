"""Compares the files of a release with its index, and names each that is missing, changed or extra."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealserve.errors import VerificationError
from sealserve.sealing.listed_folder import compare
from sealserve.sealing.release_index import ENCLAVE_FOLDER, INDEX_FILE, SIGNATURE_FILE, ReleaseIndex

_NAMED: Final = 1000  # files that a message names before it counts the rest


class ReleaseFilesError(VerificationError):
    """The files of a release are not those of its index. The subclass tells the gravest difference, the message all.

    Args:
        folder: The release.
        missing: Files of the index that are not there.
        changed: Files of the index with another size or digest.
        extra: Whatever is there and not in the index.
    """

    def __init__(self, folder: Path, *, missing: Sequence[str], changed: Sequence[str], extra: Sequence[str]) -> None:
        kinds = (("changed", changed), ("missing", missing), ("not in the index", extra))
        differences = "; ".join(f"{kind}: {_some(paths)}" for kind, paths in kinds if paths)
        super().__init__(
            f"The files of {folder} are not those of its signed index: {differences}.",
            hint="Copy the release again from where it was built.",
        )
        self.missing = tuple(missing)
        self.changed = tuple(changed)
        self.extra = tuple(extra)


class ReleaseFileChangedError(ReleaseFilesError):
    """A file has another size or digest than in the index."""

    code = "release.file-changed"


class ReleaseFileMissingError(ReleaseFilesError):
    """A file of the index is not there."""

    code = "release.file-missing"


class ReleaseFileExtraError(ReleaseFilesError):
    """There is something that is not in the index."""

    code = "release.file-extra"


def check_files(folder: Path, index: ReleaseIndex) -> None:
    """Make sure that ``folder`` holds what ``index`` lists, and apart from ``enclave/`` nothing else.

    Links and special files count as extra, or as missing where the index has a file; so do folders without files.

    Raises:
        ReleaseFileChangedError: A file differs.
        ReleaseFileMissingError: A file is missing, and none differs.
        ReleaseFileExtraError: Something is there that is not in the index, and nothing else is wrong.
    """
    found = compare(folder, index.files, known=(INDEX_FILE, SIGNATURE_FILE))
    ours = {ENCLAVE_FOLDER} & set(found.empty_folders)  # a file or a link with that name is extra
    extra = [path for path in found.extra if path not in ours and not path.startswith(f"{ENCLAVE_FOLDER}/")]
    for paths, cause in (
        (found.changed, ReleaseFileChangedError),
        (found.missing, ReleaseFileMissingError),
        (extra, ReleaseFileExtraError),
    ):
        if paths:
            raise cause(folder, missing=found.missing, changed=found.changed, extra=extra)


def _some(paths: Sequence[str]) -> str:
    rest = len(paths) - _NAMED
    return ", ".join(repr(path) for path in paths[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
