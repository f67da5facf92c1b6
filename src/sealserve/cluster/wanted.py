"""The last requested state of a deployment. It is retained after a stop, so that the next `up` restores the state.

The file is in the host's run folder and contains no secret. A damaged file counts as missing: then `sealserve.toml`
decides.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.cluster.codes import ClusterCode
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.workspace import Workspace

_FILE: Final = "wanted.json"
_Folder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]


class Wanted(BaseModel):
    """The last requested state of a deployment.

    Attributes:
        release: The release that served last, or that an interrupted `up` was to serve. None before the first `up`.
        previous: The release that served before it, which a roll-back returns to.
        newest: The newest release at that time. If a newer release exists now, `up` selects the newer one.
        host_only: Whether this machine was only the host, or None if that is unknown.
        replicas: The number that `scale` or `up --replicas` requested, or None if no command did.
        described: ``target.replicas`` at that time. If the setting has changed since, the setting decides.
        started: The number of replicas that `up` or `scale` started last, or None if that is unknown.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    release: _Folder | None = None
    previous: _Folder | None = None
    newest: _Folder | None = None
    host_only: bool | None = None
    replicas: Annotated[int, Field(ge=1)] | None = None
    described: int | None = None
    started: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """The wanted number of replicas.

    Args:
        count: The number.
        kept: Whether the number comes from `scale` or `up --replicas`, and not from ``target.replicas``.
        replaced: The number that `scale` or `up --replicas` had requested, if ``target.replicas`` has changed since.
    """

    count: int
    kept: bool = False
    replaced: int | None = None


def read(workspace: Workspace) -> Wanted:
    """Return the last requested state of a deployment. A damaged file counts as missing."""
    try:
        return read_intact(workspace)
    except SealserveError:
        return Wanted()


def read_intact(workspace: Workspace) -> Wanted:
    """Return the last requested state of a deployment, for a command that must not guess.

    Raises:
        InputError: `deployment.record` if the file is damaged.
    """
    path = workspace.host.run / _FILE
    try:
        return Wanted.model_validate_json(read_regular(path, follow_links=False))
    except InputFileMissingError:
        return Wanted()
    except (SealserveError, ValidationError):
        raise ClusterCode.DEPLOYMENT_RECORD.error(
            f"{path} is damaged: expected the record of the deployment's last requested state.",
            hint="Write it again with `sealserve up`.",
        ) from None


def replicas(workspace: Workspace, deployment: Deployment) -> Replicas:
    """Return the wanted number of replicas, for a command without an explicit number."""
    wanted, described = read(workspace), deployment.target.replicas
    if wanted.replicas is None or wanted.replicas == described:
        return Replicas(count=described)
    if wanted.described != described:
        return Replicas(count=described, replaced=wanted.replicas)
    return Replicas(count=wanted.replicas, kept=True)


def started(workspace: Workspace, deployment: Deployment) -> int:
    """Return how many replicas should run now, independently of what the next `up` would start."""
    return read(workspace).started or replicas(workspace, deployment).count


def keep_started(workspace: Workspace, count: int) -> None:
    """Record how many replicas run after a command."""
    _write(workspace, read(workspace).model_copy(update={"started": count}))


def keep_replicas(workspace: Workspace, deployment: Deployment, count: int) -> None:
    """Record the number of replicas that a command requested."""
    _write(workspace, read(workspace).model_copy(update={"replicas": count, "described": deployment.target.replicas}))


def keep_role(workspace: Workspace, *, host_only: bool) -> None:
    """Record whether this machine is only the host. `up` calls this before it starts any part."""
    _write(workspace, read(workspace).model_copy(update={"host_only": host_only}))


def keep_release(workspace: Workspace, release: str, *, newest: str | None) -> None:
    """Record which release serves.

    Args:
        workspace: The workspace.
        release: The release's name.
        newest: The name of the newest release at this time.
    """
    before = read(workspace)
    previous = before.previous if before.release in {None, release} else before.release
    kept = {"release": release, "previous": previous, "newest": newest}
    _write(workspace, before.model_copy(update=kept))


def restore(workspace: Workspace, before: Wanted) -> None:
    """Restore the record from before a command that failed and changed nothing."""
    _write(workspace, before)


@contextlib.contextmanager
def starting(
    workspace: Workspace, count: int, *, before: Wanted, stays: Callable[[BaseException], bool]
) -> Iterator[None]:
    """Record how many replicas the block starts. If the block fails, record the number only if the change remains.

    Args:
        workspace: The workspace whose deployment the block changes.
        count: The number of replicas.
        before: The record from before the command, which is restored if the block fails and no change remains.
        stays: Returns whether the change remains although the block failed.
    """
    try:
        yield
    except BaseException as error:
        if stays(error):
            keep_started(workspace, count)
        else:
            restore(workspace, before)
        raise
    keep_started(workspace, count)


def _write(workspace: Workspace, wanted: Wanted) -> None:
    write_file(workspace.host.run / _FILE, wanted.model_dump_json(indent=1).encode(), mode=PRIVATE)
