"""The register of users: the serial number of every certificate that was issued to a user, and its revocation."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.owner.codes import OwnerCode
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.workspace import Workspace


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class Issued(_Part):
    """A certificate that was issued to a user."""

    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]
    not_after: AwareDatetime
    authority: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
    """Key identifier of the authority that signed the certificate, hexadecimal."""
    revoked: AwareDatetime | None = None


class UserRegister(_Part):
    """The issued certificates of each user. ``number`` is the number of the newest revocation list."""

    version: Literal[1] = 1
    number: Annotated[int, Field(ge=0)] = 0
    users: dict[str, list[Issued]] = {}

    def revoked(self, authority: str | None) -> dict[int, datetime]:
        """Return the revoked certificates of an authority: the time of the revocation by serial number."""
        issued = (item for items in self.users.values() for item in items if item.authority == authority)
        return {int(item.serial, 16): item.revoked for item in issued if item.revoked is not None}


def _path(workspace: Workspace) -> Path:
    return workspace.owner.users / "register.json"


def read_register(workspace: Workspace) -> UserRegister:
    """Return the register of a workspace. A missing file is an empty register.

    Raises:
        InputError: `user.register-damaged`: The file is not a register.
    """
    path = _path(workspace)
    try:
        return UserRegister.model_validate_json(read_regular(path))
    except InputFileMissingError:
        return UserRegister()
    except ValidationError as error:
        raise OwnerCode.USER_REGISTER_DAMAGED.error(
            f"The register of users {path} is damaged: {error.errors()[0]['msg']}.",
            hint="Restore the file from a backup. Without it, issued certificates cannot be revoked.",
        ) from error


def write_register(workspace: Workspace, register: UserRegister) -> None:
    """Write the register. The caller holds its lock: see `changing_register`."""
    write_file(_path(workspace), register.model_dump_json(indent=2).encode() + b"\n", mode=PRIVATE)


@contextlib.contextmanager
def changing_register(workspace: Workspace) -> Iterator[UserRegister]:
    """Yield the register under a lock, and write it at the end. Other processes wait for the lock."""
    folder = workspace.owner.users
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        register = read_register(workspace)
        yield register
        write_register(workspace, register)
    finally:
        os.close(lock)
