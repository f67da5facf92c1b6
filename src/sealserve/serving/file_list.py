"""The list of the files that the server may load, so that whoever holds the disk can neither hide nor swap one.

An enclave sees folders as the host shows them: a missing file would otherwise mean an older version, or a model with
uninitialised variables. The list itself is sealed. It is JSON,
``{"version":1,"files":[{"path":"models/m/1/saved_model.pb","size":7,"sha256":"..."},...]}``, with paths relative to
the folder that holds it. What is checked is what is there at the start: a file that disappears afterwards makes the
load, or the requests, fail.
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
    "In an enclave, this means that the file was changed or moved after it was sealed, or that the release is not "
    "writable: Gramine opens sealed files for reading and writing. Copy the release again, to a writable folder."
)
"""For a file that the operating system refuses to read. Gramine answers "Permission denied" to each of these faults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileList:
    """A list of files with their sizes and digests.

    Args:
        folder: What the paths are relative to.
        rows: The files by path.
    """

    folder: Path
    rows: Mapping[str, ListedFile]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the list in the file ``path``.

        Raises:
            VerificationError: `file-list.missing`: There is none.
            VerificationError: `file-list.unreadable`: It cannot be read.
            VerificationError: As `parse`.
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
        return cls.parse(content, folder=Path(os.path.abspath(path.parent)), source=str(path))  # noqa: PTH100  # links stay

    @classmethod
    def parse(cls, content: bytes, *, folder: Path, source: str = "the file list") -> Self:
        """Return the list that ``content`` describes.

        Args:
            content: The JSON.
            folder: What its paths are relative to.
            source: What to call it in errors.

        Raises:
            VerificationError: `file-list.malformed`: No such JSON, a path that is absolute or leads upwards, or one
                that comes twice.
            VerificationError: `file-list.empty`: It names no file.
        """
        try:
            document = FileListDocument.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ServingCode.FILE_LIST_MALFORMED.error(
                f"{source} is no file list: {where or 'it'}: {first['msg']}."
            ) from error
        if document.version != FILE_LIST_VERSION:
            raise ServingCode.FILE_LIST_MALFORMED.error(
                f"{source} has version {document.version}; expected {FILE_LIST_VERSION}.",
                hint="It was made for another release of sealserve.",
            )
        if not document.files:
            raise ServingCode.FILE_LIST_EMPTY.error(f"{source} names no file: nothing could be loaded.")
        rows: dict[str, ListedFile] = {}
        for row in document.files:
            if not _is_plain(row.path):
                raise ServingCode.FILE_LIST_MALFORMED.error(
                    f"{source}: the path {row.path!r} is not plain and relative."
                )
            if row.path in rows:
                raise ServingCode.FILE_LIST_MALFORMED.error(f"{source} names {row.path!r} twice.")
            rows[row.path] = row
        return cls(folder=folder, rows=rows)

    def relative(self, path: Path) -> str | None:
        """Return ``path`` as the list would name it, or None where it lies outside the list's folder."""
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  # a link must not lead out of the folder unseen
        return absolute.relative_to(self.folder).as_posix() if absolute.is_relative_to(self.folder) else None

    def below(self, folder: Path) -> tuple[str, ...]:
        """Return the listed paths below ``folder``, relative to it.

        Raises:
            VerificationError: `file-list.outside`: ``folder`` is not below the list's own.
        """
        prefix = self._prefix(folder)
        return tuple(path.removeprefix(prefix) for path in self.rows if path.startswith(prefix))

    def check_folder(self, folder: Path) -> None:
        """Check that ``folder`` holds exactly the listed files, each of its size and digest.

        Raises:
            VerificationError: `file-list.outside`: It is not below the list's folder.
            VerificationError: `servable.file-missing`: A listed file is not there.
            VerificationError: `servable.file-unlisted`: A file, or a link, is there that is not listed.
            VerificationError: `servable.file-changed`: A file has another size or digest.
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
        """Return the content of a file of the list, checked: these very bytes are the listed ones.

        Raises:
            VerificationError: `servable.file-missing`: It is not there.
            VerificationError: `servable.file-unlisted`: The list does not name it.
            VerificationError: `servable.file-changed`: It has another size or digest.
            VerificationError: `servable.file-unreadable`: It cannot be read.
        """
        name = self.relative(path)
        if name is None or name not in self.rows:
            raise _unlisted(name or str(path))
        with self._reading(name) as stream:
            content = stream.read(self.rows[name].size + 1)
        self._check(name, len(content), hashlib.sha256(content).hexdigest())
        return content

    def _prefix(self, folder: Path) -> str:
        name = self.relative(folder)
        if name is None:
            raise ServingCode.FILE_LIST_OUTSIDE.error(
                f"{folder} is not below {self.folder}, where the file list lies.",
                hint="Put the file list into a folder above the model's.",
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
        except OSError as error:  # what an encrypted mount says of a file that was tampered with
            raise unreadable(path, error.strerror) from error

    def _check(self, path: str, size: int, sha256: str) -> None:
        row = self.rows[path]
        if size != row.size:
            raise ServingCode.SERVABLE_FILE_CHANGED.error(f"{path} has {size} bytes; the file list says {row.size}.")
        if sha256 != row.sha256:
            raise ServingCode.SERVABLE_FILE_CHANGED.error(
                f"{path} has the SHA-256 {sha256}; the file list says {row.sha256}."
            )


def _missing(path: str) -> SealserveError:
    return ServingCode.SERVABLE_FILE_MISSING.error(
        f"{path} is in the file list, and it is not there.", hint="Somebody hid or removed it."
    )


def unreadable(path: str | Path, reason: str | None) -> SealserveError:
    """Return the error for a file of the release that the operating system refuses to read."""
    return ServingCode.SERVABLE_FILE_UNREADABLE.error(f"{path} cannot be read: {reason}.", hint=UNREADABLE_HINT)


def _unlisted(path: str) -> SealserveError:
    return ServingCode.SERVABLE_FILE_UNLISTED.error(
        f"{path} is there, and the file list does not name it.", hint="Somebody added it."
    )


def _is_plain(path: str) -> bool:
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _files(folder: Path) -> list[str]:
    """Return what lies below ``folder`` and is no folder: links are not followed, so a link counts as a file."""
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
            continue  # the folder, or an entry since it was listed: it counts as missing
        except OSError as error:  # Gramine opens a sealed file to tell its size
            raise unreadable(error.filename or current, error.strerror) from error
    return found
