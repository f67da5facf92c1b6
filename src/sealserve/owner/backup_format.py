"""The format of a backup of the owner's workspace: a plain tar, sealed under a key that the master key wraps.

The members are ``backup.json`` (public: version, time, the wrapped key), ``1``, ``2``... (the files, each a Gramine
encrypted file bound to its path in the workspace) and ``list`` (encrypted as well: path, mode and size of each file).
So only the owner sees the names, and no file can be left out, replaced, or taken from another backup. The backup does
not contain the master key: neither of both opens the release keys without the other.
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
"""What the wrapped key is bound to: no release key can take its place."""
LARGEST_HEADER: Final = 64 * 2**10
DAMAGED: Final = "It was damaged, or somebody changed it: use another copy."

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class Header(DocumentPart):
    """The public part of a backup, its first member."""

    version: Literal[1] = 1
    created: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+=*$")]


class ListedFile(DocumentPart):
    """One file of a backup: its path below ``.sealserve``, its permissions, its plaintext size in bytes."""

    path: str
    mode: Annotated[int, Field(ge=0, le=0o777)]
    size: Annotated[int, Field(ge=0)]


class FileList(DocumentPart):
    """The files of a backup, its last member."""

    version: Literal[1] = 1
    created: str
    files: tuple[ListedFile, ...]

    @property
    def summary(self) -> "Backup":
        """What a person is told of the backup."""
        return Backup(
            created=datetime.strptime(self.created, _TIME).replace(tzinfo=UTC),
            files=len(self.files),
            size=sum(row.size for row in self.files),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was backed up, or restored.

    Args:
        created: When the backup was made.
        files: The number of files.
        size: The plaintext size of all files, in bytes.
    """

    created: datetime
    files: int
    size: int


def time_text(time: datetime) -> str:
    """Return a time as the header and the list of files hold it."""
    return time.astimezone(UTC).strftime(_TIME)


def parse_header(content: bytes, name: str) -> Header:
    """Parse the first member of the backup ``name``.

    Raises:
        VerificationError: `backup.format`: It is not a header that sealserve writes.
    """
    try:
        return Header.model_validate_json(content)
    except ValidationError as error:
        raise OwnerCode.BACKUP_FORMAT.error(f"{name}: {HEADER} is none that sealserve writes.") from error


def parse_list(content: SecretBytes, name: str) -> FileList:
    """Parse the decrypted list of the backup ``name``.

    Raises:
        VerificationError: `backup.format`: It is not a list that sealserve writes.
    """
    try:
        return FileList.model_validate_json(content.reveal())
    except ValidationError as error:
        raise OwnerCode.BACKUP_FORMAT.error(f"{name}: its list is none that sealserve writes.") from error
