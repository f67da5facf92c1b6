"""Downloaded collateral on disk, so that a restarted broker can appraise evidence while the PCS or PCCS is down.

Each document has one file, which contains the reply of the service without changes. The files are untrusted input: the
reply is parsed and checked again after reading, and each appraisal verifies its collateral up to the trusted root.
Several processes may use the same folder. A file is replaced atomically, so a reader finds a complete document.

The user of the broker's container can write to the folder's parent, and root also opens the folder. Therefore this
module opens the folder without following a link, and reaches the files through the descriptor.
"""

import base64
import binascii
import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.errors import SealserveError
from sealserve.regular_file import InputFileError, InputFileMissingError, read_regular
from sealserve.sgx.pcs_responses import ISSUER_CHAINS

_LOG: Final = logging.getLogger(__name__)
_SUFFIX: Final = ".json"
_LOCK_SUFFIX: Final = ".lock"
_POLL_SECONDS: Final = 0.05
_NAME: Final = re.compile(r"[a-z]+(?:-[0-9A-Za-z]+)*")


class _File(BaseModel):
    """Format 1 of a file. The body is base64."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[1] = 1
    url: Annotated[str, StringConstraints(max_length=2048)]
    fetched: AwareDatetime
    headers: dict[str, str]
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply of a PCS or PCCS to one request.

    Args:
        url: The URL of the request.
        fetched: The time of the download.
        body: The body, decompressed.
        headers: The headers, with case-insensitive names or with exactly the names of `ISSUER_CHAINS`.
    """

    url: str
    fetched: datetime
    body: bytes
    headers: Mapping[str, str]


class CollateralFolder:
    """A folder with one file (mode 0600) for each document.

    Args:
        root: The folder. It is created with mode 0700 when the first document is written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Return the names of the stored documents, sorted."""
        try:
            with self._opened() as folder:
                found = [path.name.removesuffix(_SUFFIX) for path in folder.iterdir() if path.suffix == _SUFFIX]
        except OSError:
            return []
        return sorted(name for name in found if _NAME.fullmatch(name))

    def stamp(self, name: str) -> tuple[int, int] | None:
        """Return a value that changes when the file is replaced, or `None` if it does not exist."""
        file = _file_name(name)
        try:
            with self._opened() as folder:
                found = (folder / file).lstat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def read(self, name: str) -> Reply | None:
        """Return the stored reply, or `None` if the file does not exist or is damaged. Damage is logged."""
        file = _file_name(name)
        try:
            with self._opened() as folder:
                stored = _File.model_validate_json(read_regular(folder / file, follow_links=False))
            body = base64.b64decode(stored.body, validate=True)
        except (FileNotFoundError, InputFileMissingError):
            return None
        except (InputFileError, OSError) as error:
            _LOG.warning("the stored collateral %s cannot be used: %s", self._root / file, error)
            return None
        except (ValidationError, binascii.Error, ValueError):  # the content is not logged: it may be anything
            _LOG.warning("the stored collateral %s is damaged and is ignored", self._root / file)
            return None
        return Reply(url=stored.url, fetched=stored.fetched, body=body, headers=stored.headers)

    def write(self, name: str, reply: Reply) -> None:
        """Store a reply. A failure, for example a full disk, is logged, because the broker works without the files."""
        headers = {name: reply.headers[name] for name in ISSUER_CHAINS if name in reply.headers}
        body = base64.b64encode(reply.body).decode()
        stored = _File(url=reply.url, fetched=reply.fetched, headers=headers, body=body)
        file = _file_name(name)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._opened() as folder:
                write_file(folder / file, stored.model_dump_json().encode(), mode=PRIVATE)
        except (SealserveError, OSError) as error:
            _LOG.warning("the collateral %s is only in memory, because it cannot be stored: %s", name, error)

    @contextlib.contextmanager
    def alone(self, name: str, *, seconds: float) -> Iterator[None]:
        """Wait until no other process downloads this document, so that the service gets one request for it.

        The lock is best effort. If the folder cannot be used, or another process holds the lock for too long, the block
        runs without the lock.

        Args:
            name: The document's name.
            seconds: The maximum time to wait.
        """
        with contextlib.ExitStack() as stack:
            try:
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                with self._opened() as folder:
                    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                    lock = os.open(folder / f"{_file_name(name)}{_LOCK_SUFFIX}", flags, PRIVATE)
                    stack.callback(os.close, lock)  # ends the lock
                    if os.geteuid() == 0:  # the container's user must also be able to open the file
                        owner = folder.stat()
                        os.fchown(lock, owner.st_uid, owner.st_gid)
                _wait_for(lock, time.monotonic() + seconds)
            except OSError as error:
                _LOG.warning("the download of the collateral %s does not wait for other processes: %s", name, error)
            yield

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Path]:
        """Open the folder, and yield a path through its descriptor. A link to a folder is an error."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


def _wait_for(lock: int, deadline: float) -> None:
    """Take a lock.

    Raises:
        OSError: The lock cannot be taken in time.
    """
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def _file_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not the name of a document: {name!r}")
    return f"{name}{_SUFFIX}"
