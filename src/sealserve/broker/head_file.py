"""Signed heads of the audit log in files outside the database, which reveal rows that were deleted at the end later."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.atomic_file import write_file
from sealserve.broker import audit
from sealserve.broker.audit import Head
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.regular_file import InputFileMissingError, read_regular


class _HeadFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: Annotated[int, Field(ge=0, strict=True)]
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    time: AwareDatetime
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


def read_head(content: bytes, *, name: str) -> Head:
    """Parse the output of `sealserve broker log --sign`. The signature is not verified here.

    Args:
        content: The content of the file.
        name: The file's name in messages.

    Raises:
        InputError: `audit.head-file` if the content is not a signed head.
        VerificationError: `audit.head-signature` if the time cannot be converted to UTC.
    """
    try:
        head = _HeadFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BrokerCode.AUDIT_HEAD_FILE.error(
            f"{name} does not contain a signed head of an audit log: {where}: {first['msg']}.",
            hint="Run `sealserve broker log --sign` to create a signed head.",
        ) from error
    return audit.parse_head(head.seq, head.hash, head.time.isoformat(), head.signature)


def head_json(head: Head) -> bytes:
    """Return a head as JSON in the format that `read_head` parses."""
    written = {"seq": head.seq, "hash": head.hash, "time": head.time.isoformat(), "signature": head.signature.hex()}
    return (json.dumps(written) + "\n").encode()


def kept_head(path: Path) -> Head | None:
    """Return the head that `keep_head` stored at ``path``, or `None` if the file does not exist.

    Raises:
        InputError: `audit.head-file` if the file has other content.
        InputFileError: The path is a link, or the file cannot be read.
    """
    try:
        return read_head(read_regular(path, follow_links=False), name=str(path))
    except InputFileMissingError:
        return None


def keep_head(path: Path, database: Database, head: Head) -> None:
    """Store ``head`` at ``path``, in the format that `read_head` parses, unless a newer head is already stored there.

    Args:
        path: The file.
        database: The database with the log. It must contain the row of the currently stored head. Otherwise the new
            head would replace the evidence of deleted rows.
        head: The head to store.

    Raises:
        VerificationError: `audit.truncated` if the log does not contain the row of the stored head.
        InputError: `audit.head-file` if the file has other content. It is not overwritten.
        UnavailableError: `file.unwritable` if the folder is missing or read-only.
    """
    before = kept_head(path)
    if before is not None:
        with database.read() as connection:
            audit.check_holds(connection, before)
    if before is None or before.seq < head.seq:
        write_file(path, head_json(head))
