"""The list of the files that the server may load. It detects files that the host hid or replaced.

The host presents folders to an enclave. Without the list, a hidden file could cause the server to load an
older version, or a model with uninitialized variables. The list itself is sealed. It is JSON,
``{"version":1,"files":[{"path":"models/m/1/saved_model.pb","size":7,"sha256":"..."},...]}``, with paths relative to
the folder that contains it. The files are checked when they are loaded. If a file disappears later, the load or the
requests fail.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from sealserve.canonical_document import FILE_LIST_VERSION, FileListDocument, ListedFile
from sealserve.errors import SealserveError
from sealserve.model_digest import model_digest
from sealserve.regular_file import (
    InputFileError,
    InputFileMissingError,
    InputFileUnreadableError,
    open_regular,
    read_regular,
)
from sealserve.serving.codes import ServingCode

_LARGEST_LIST: Final = 64 * 2**20

UNREADABLE_HINT: Final = (
    "Copy the release again, to a writable folder. In an enclave, this error means that the file was changed or moved "
    "after it was sealed, or that the release is not writable. Gramine opens sealed files for reading and writing."
)
"""For a file that the operating system cannot read. Gramine reports "Permission denied" for each of these faults."""
_COPY_AGAIN: Final = "Copy the release again from the machine that built it."


@dataclass(frozen=True, slots=True, kw_only=True)
class FileList:
    """A list of files with their sizes and digests.

    Args:
        folder: The folder that the paths are relative to.
        rows: The files by path.
    """

    folder: Path
    rows: Mapping[str, ListedFile]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the list in the file ``path``.

        Raises:
            VerificationError: `file-list.missing`: The file does not exist.
            VerificationError: `file-list.unreadable`: The file cannot be read.
            VerificationError: See `parse`.
        """
        try:
            content = read_regular(path, limit=_LARGEST_LIST)
        except InputFileUnreadableError as error:
            raise ServingCode.FILE_LIST_UNREADABLE.error(
                f"The file list {path} cannot be read: {error.reason}.", hint=UNREADABLE_HINT
            ) from error
        except InputFileError as error:
            raise ServingCode.FILE_LIST_MISSING.error(
                f"The file list {path} cannot be read: {error.reason}."
            ) from error
        return cls.parse(content, folder=Path(os.path.abspath(path.parent)), source=str(path))  # noqa: PTH100  # keep links

    @classmethod
    def parse(cls, content: bytes, *, folder: Path, source: str = "the file list") -> Self:
        """Parse a file list.

        Args:
            content: The JSON.
            folder: The folder that its paths are relative to.
            source: The list's name in error messages.

        Raises:
            VerificationError: `file-list.malformed`: The JSON is invalid, a path is absolute or leads upwards, or a
                path is repeated.
            VerificationError: `file-list.empty`: The list does not list any file.
        """
        try:
            document = FileListDocument.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ServingCode.FILE_LIST_MALFORMED.error(
                f"{source} is not a valid file list: {where or 'the document'}: {first['msg']}.",
                hint="Copy the release again.",
            ) from error
        if document.version != FILE_LIST_VERSION:
            raise ServingCode.FILE_LIST_MALFORMED.error(
                f"{source} has an unsupported version: expected {FILE_LIST_VERSION}, got {document.version}.",
                hint="Build the release again with this version of sealserve.",
            )
        if not document.files:
            raise ServingCode.FILE_LIST_EMPTY.error(
                f"{source} does not list any file, so nothing could be loaded.", hint="Build the release again."
            )
        rows: dict[str, ListedFile] = {}
        for row in document.files:
            if not _is_plain(row.path):
                raise ServingCode.FILE_LIST_MALFORMED.error(
                    f"{source} is not a valid file list: {row.path!r} is not a plain relative path."
                )
            if row.path in rows:
                raise ServingCode.FILE_LIST_MALFORMED.error(
                    f"{source} is not a valid file list: it lists {row.path!r} twice."
                )
            rows[row.path] = row
        return cls(folder=folder, rows=rows)

    def relative(self, path: Path) -> str | None:
        """Return ``path`` in the list's form, or None if it is outside of the list's folder."""
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  # a link must not lead out of the folder unseen
        return absolute.relative_to(self.folder).as_posix() if absolute.is_relative_to(self.folder) else None

    def below(self, folder: Path) -> tuple[str, ...]:
        """Return the listed paths below ``folder``, relative to it.

        Raises:
            VerificationError: `file-list.outside`: ``folder`` is not below the list's folder.
        """
        prefix = self._prefix(folder)
        return tuple(path.removeprefix(prefix) for path in self.rows if path.startswith(prefix))

    def check_folder(self, folder: Path) -> None:
        """Check that ``folder`` contains exactly the listed files, with their sizes and digests.

        Raises:
            VerificationError: `file-list.outside`: ``folder`` is not below the list's folder.
            VerificationError: `servable.file-missing`: A listed file is missing.
            VerificationError: `servable.file-unlisted`: A file or a link exists that is not listed.
            VerificationError: `servable.file-changed`: A file has a different size or digest.
            VerificationError: `servable.file-unreadable`: A file cannot be read.
        """
        prefix = self._prefix(folder)
        found = {prefix + path for path in _files(folder)}
        expected = {path for path in self.rows if path.startswith(prefix)}
        for path in sorted(expected - found):
            raise _missing(path)
        for path in sorted(found - expected):
            raise _unlisted(path)
        for path in sorted(expected):
            with self._reading(path) as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                self._check(path, stream.tell(), digest)

    def read_file(self, path: Path) -> bytes:
        """Return the content of a listed file. The returned bytes are the bytes that were checked.

        Raises:
            VerificationError: `servable.file-missing`: The file is missing.
            VerificationError: `servable.file-unlisted`: The file is not listed.
            VerificationError: `servable.file-changed`: The file has a different size or digest.
            VerificationError: `servable.file-unreadable`: The file cannot be read.
        """
        name = self.relative(path)
        if name is None or name not in self.rows:
            raise _unlisted(name or str(path))
        with self._reading(name) as stream:
            content = stream.read(self.rows[name].size + 1)
        self._check(name, len(content), hashlib.sha256(content).hexdigest())
        return content

    def model_digest(self, folder: Path) -> str | None:
        """Return the digest of the model whose version is in ``folder``, as in the release statement.

        Returns:
            The digest, or None if a path contains a new line. Such a model has no digest.

        Raises:
            VerificationError: `file-list.outside`: ``folder`` is not below the list's folder.
        """
        prefix = self._prefix(folder)
        rows = {path.removeprefix(prefix): row for path, row in self.rows.items() if path.startswith(prefix)}
        try:
            return model_digest({path: (row.size, row.sha256) for path, row in rows.items()})
        except ValueError:
            return None

    def _prefix(self, folder: Path) -> str:
        name = self.relative(folder)
        if name is None:
            raise ServingCode.FILE_LIST_OUTSIDE.error(
                f"{folder} is outside of the folder that the file list covers: expected a folder below {self.folder}.",
                hint="Move the file list into a folder above the model's folder.",
            )
        return "" if name == "." else f"{name}/"

    @contextmanager
    def _reading(self, path: str) -> Iterator[BufferedReader]:
        try:
            with (
                open_regular(self.folder / path) as descriptor,
                open(descriptor, "rb", closefd=False) as stream,
            ):
                yield stream
        except InputFileMissingError as error:
            raise _missing(path) from error
        except InputFileUnreadableError as error:
            raise unreadable(path, error.reason) from error
        except InputFileError as error:
            raise ServingCode.SERVABLE_FILE_CHANGED.error(f"{path} cannot be read: {error.reason}.") from error
        except OSError as error:  # an encrypted mount reports this for a file that was tampered with
            raise unreadable(path, error.strerror) from error

    def _check(self, path: str, size: int, sha256: str) -> None:
        row = self.rows[path]
        if size != row.size:
            raise ServingCode.SERVABLE_FILE_CHANGED.error(
                f"{path} does not match the file list: expected {row.size} bytes, got {size}.", hint=_COPY_AGAIN
            )
        if sha256 != row.sha256:
            raise ServingCode.SERVABLE_FILE_CHANGED.error(
                f"{path} does not match the file list: expected SHA-256 {row.sha256}, got {sha256}.", hint=_COPY_AGAIN
            )


def _missing(path: str) -> SealserveError:
    return ServingCode.SERVABLE_FILE_MISSING.error(
        f"{path} is in the file list, but the file is missing: it was hidden or removed.", hint=_COPY_AGAIN
    )


def unreadable(path: str | Path, reason: str | None) -> SealserveError:
    """Return the error for a file of the release that the operating system cannot read."""
    return ServingCode.SERVABLE_FILE_UNREADABLE.error(f"{path} cannot be read: {reason}.", hint=UNREADABLE_HINT)


def _unlisted(path: str) -> SealserveError:
    return ServingCode.SERVABLE_FILE_UNLISTED.error(
        f"{path} is not in the file list: it was added after the release was built.",
        hint="Remove the file, or copy the release again to an empty folder.",
    )


def _is_plain(path: str) -> bool:
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _files(folder: Path) -> list[str]:
    """Return all entries below ``folder`` except folders. Links are not followed, so a link counts as a file."""
    found = []
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            for entry in list(current.iterdir()):
                if stat.S_ISDIR(entry.lstat().st_mode):
                    pending.append(entry)
                else:
                    found.append(entry.relative_to(folder).as_posix())
        except FileNotFoundError:
            continue  # the folder or a listed entry was removed: it counts as missing
        except OSError as error:  # Gramine opens a sealed file to read its size
            raise unreadable(error.filename or current, error.strerror) from error
    return found
