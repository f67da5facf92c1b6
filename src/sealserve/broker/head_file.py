"""Signed heads of the audit log as files, outside of the database: rows that were cut off since are then noticed."""

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
    """Return the head that `sealserve broker log --sign` printed; its signature is not verified here.

    Args:
        content: What the file holds.
        name: What to call it in messages.

    Raises:
        InputError: `audit.head-file`: It is none.
        VerificationError: `audit.head-signature`: Its time cannot be converted to UTC.
    """
    try:
        head = _HeadFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BrokerCode.AUDIT_HEAD_FILE.error(
            f"{name} holds no signed head of an audit log: {where}: {first['msg']}.",
            hint="`sealserve broker log --sign` writes one.",
        ) from error
    return audit.parse_head(head.seq, head.hash, head.time.isoformat(), head.signature)


def head_json(head: Head) -> bytes:
    """Return a head in the form that `read_head` reads."""
    written = {"seq": head.seq, "hash": head.hash, "time": head.time.isoformat(), "signature": head.signature.hex()}
    return (json.dumps(written) + "\n").encode()


def kept_head(path: Path) -> Head | None:
    """Return the head that `keep_head` wrote to ``path``, or None if it never did.

    Raises:
        InputError: `audit.head-file`: The file holds something else.
        InputFileError: The path is a link, or cannot be read.
    """
    try:
        return read_head(read_regular(path, follow_links=False), name=str(path))
    except InputFileMissingError:
        return None


def keep_head(path: Path, database: Database, head: Head) -> None:
    """Write ``head`` to ``path``, in the form that `read_head` reads, unless a later head is kept there already.

    Args:
        path: The file.
        database: The database with the log, which must hold the row of the head that is kept so far: otherwise the new
            head would replace the evidence that rows were deleted.
        head: The head.

    Raises:
        VerificationError: `audit.truncated`: The log does not hold the row of the head that is kept.
        InputError: `audit.head-file`: The file holds something else, which is not overwritten.
        UnavailableError: `file.unwritable`: The folder is missing or read-only.
    """
    before = kept_head(path)
    if before is not None:
        with database.read() as connection:
            audit.check_holds(connection, before)
    if before is None or before.seq < head.seq:
        write_file(path, head_json(head))
