"""Signed heads of the audit log in files outside the database, which reveal rows that were deleted at the end later."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.atomic_file import write_file
from sealserve.broker import audit
from sealserve.broker.audit import Head
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.regular_file import InputFileMissingError, read_regular

_LOCK_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.01


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
        UnavailableError: `audit.head-busy` if another process stores a head for too long.
    """
    with _alone(path.parent):
        before = kept_head(path)
        if before is not None:
            with database.read() as connection:
                audit.check_holds(connection, before)
        if before is None or before.seq < head.seq:
            write_file(path, head_json(head))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder. Otherwise, of two processes that store a head, the older head could be written last.

    Raises:
        UnavailableError: `audit.head-busy` if another process holds the lock for too long.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # the caller reports that the head cannot be stored there
        yield
        return
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BrokerCode.AUDIT_HEAD_BUSY.error(
                        f"The head of the audit log cannot be stored: another process has locked {folder} for more "
                        f"than {_LOCK_SECONDS:g} s.",
                        hint="Run `fuser` on the folder to find that process, and end it.",
                    ) from error
                time.sleep(_POLL_SECONDS)
            else:
                break
        yield
    finally:
        os.close(descriptor)  # ends the lock
