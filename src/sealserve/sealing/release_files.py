"""Comparison of the files of a release with its index. The errors list each missing, changed or extra file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealserve.errors import VerificationError
from sealserve.sealing.listed_folder import compare
from sealserve.sealing.release_index import ENCLAVE_FOLDER, INDEX_FILE, SIGNATURE_FILE, ReleaseIndex

_NAMED: Final = 1000  # maximum number of files that a message lists; the others are counted


class ReleaseFilesError(VerificationError):
    """The files of a release differ from its index. The subclass is the most severe difference, the message lists all.

    Args:
        folder: The release.
        missing: Files of the index that do not exist.
        changed: Files of the index whose size or digest differs.
        extra: Entries of the folder that are not in the index.
    """

    def __init__(self, folder: Path, *, missing: Sequence[str], changed: Sequence[str], extra: Sequence[str]) -> None:
        kinds = (("changed", changed), ("missing", missing), ("not in the index", extra))
        differences = "; ".join(f"{kind}: {_some(paths)}" for kind, paths in kinds if paths)
        super().__init__(
            f"The files of {folder} do not match its signed index: {differences}.",
            hint="Copy the release again from where it was built.",
        )
        self.missing = tuple(missing)
        self.changed = tuple(changed)
        self.extra = tuple(extra)


class ReleaseFileChangedError(ReleaseFilesError):
    """The size or digest of a file differs from the signed index of the release."""

    code = "release.file-changed"


class ReleaseFileMissingError(ReleaseFilesError):
    """A file of the signed index is missing from the release."""

    code = "release.file-missing"


class ReleaseFileExtraError(ReleaseFilesError):
    """The release folder contains an entry that is not in the signed index."""

    code = "release.file-extra"


def check_files(folder: Path, index: ReleaseIndex) -> None:
    """Check that ``folder`` contains exactly the files in ``index``. The folder ``enclave/`` is ignored.

    Links and special files count as extra, or as missing if the index has a file at that path. Empty folders count as
    extra too.

    Raises:
        ReleaseFileChangedError: A file differs.
        ReleaseFileMissingError: A file is missing, and none differs.
        ReleaseFileExtraError: An entry is not in the index, and no file is changed or missing.
    """
    found = compare(folder, index.files, known=(INDEX_FILE, SIGNATURE_FILE))
    ours = {ENCLAVE_FOLDER} & set(found.empty_folders)  # a file or a link with this name counts as extra
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
