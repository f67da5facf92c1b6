"""The format of a backup of the owner's workspace: a tar file, encrypted under a key that the master key wraps.

The members are:

- ``backup.json``: public; version, time and the wrapped key.
- ``1``, ``2``, ...: the files. Each is a Gramine encrypted file, bound to its path in the workspace.
- ``list``: encrypted; path, mode and size of each file.

Only the owner can read the file names. A file that is left out, replaced, or taken from another backup is detected. The
backup does not contain the master key, so the release keys can be decrypted only with both the backup and the key.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, ValidationError

from sealserve.canonical_document import DocumentPart
from sealserve.owner.codes import OwnerCode
from sealserve.secret import SecretBytes

HEADER: Final = "backup.json"
LIST: Final = "list"
LIST_PATH: Final = "backup/list"
FOLDERS: Final = ("owner", "user", "vendor")
KEY_CONTEXT: Final = b"sealserve backup key v1\0"
"""Context to which the wrapped key is bound, so that a wrapped release key cannot replace it."""
LARGEST_HEADER: Final = 64 * 2**10
DAMAGED: Final = "Use another copy of the backup: this copy was damaged or changed."

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class Header(DocumentPart):
    """The public part of a backup, which is its first member."""

    version: Literal[1] = 1
    created: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+=*$")]


class ListedFile(DocumentPart):
    """A file of a backup: path below ``.sealserve``, permissions, plaintext size in bytes."""

    path: str
    mode: Annotated[int, Field(ge=0, le=0o777)]
    size: Annotated[int, Field(ge=0)]


class FileList(DocumentPart):
    """The list of a backup's files, which is its last member."""

    version: Literal[1] = 1
    created: str
    files: tuple[ListedFile, ...]

    @property
    def summary(self) -> "Backup":
        """Time, number of files and total size, for people."""
        return Backup(
            created=datetime.strptime(self.created, _TIME).replace(tzinfo=UTC),
            files=len(self.files),
            size=sum(row.size for row in self.files),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """Summary of a backup.

    Args:
        created: Time at which the backup was created.
        files: Number of files.
        size: Plaintext size of all files, in bytes.
    """

    created: datetime
    files: int
    size: int


def time_text(time: datetime) -> str:
    """Return a time in the format of the header and the list."""
    return time.astimezone(UTC).strftime(_TIME)


def parse_header(content: bytes, name: str) -> Header:
    """Parse the first member of the backup ``name``.

    Raises:
        VerificationError: `backup.format`: The content is not a valid header.
    """
    try:
        return Header.model_validate_json(content)
    except ValidationError as error:
        raise OwnerCode.BACKUP_FORMAT.error(f"The backup {name} has an invalid {HEADER}.", hint=DAMAGED) from error


def parse_list(content: SecretBytes, name: str) -> FileList:
    """Parse the decrypted list of the backup ``name``.

    Raises:
        VerificationError: `backup.format`: The content is not a valid list.
    """
    try:
        return FileList.model_validate_json(content.reveal())
    except ValidationError as error:
        raise OwnerCode.BACKUP_FORMAT.error(f"The backup {name} has an invalid list of files.", hint=DAMAGED) from error
