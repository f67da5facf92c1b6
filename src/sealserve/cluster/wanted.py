"""What a deployment was told to run last: kept when it stops, so that the next `up` starts the same.

The file is in the host's run folder. It says nothing secret. A damaged file counts as missing: `sealserve.toml` decides
then.
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
    """What a deployment was told to run last.

    Attributes:
        release: The release that served last, or that an interrupted `up` was to serve; None before the first `up`.
        previous: The release that served before it, which a roll-back returns to.
        newest: The newest release at that time. A newer one was built since, and is meant by `up`.
        host_only: Whether this machine was only the host, or None if that is unknown.
        replicas: The number that `scale`, or `up --replicas`, asked for, or None if nobody did.
        described: ``target.replicas`` at that time. If it was changed since, it decides.
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
        kept: Whether it is what `scale` or `up --replicas` asked for, and not ``target.replicas``.
        replaced: What `scale` or `up --replicas` had asked for, if ``target.replicas`` was changed since.
    """

    count: int
    kept: bool = False
    replaced: int | None = None


def read(workspace: Workspace) -> Wanted:
    """Return what a deployment was told to run last."""
    try:
        return read_intact(workspace)
    except SealserveError:
        return Wanted()


def read_intact(workspace: Workspace) -> Wanted:
    """Return what a deployment was told to run last, for a command that may not guess.

    Raises:
        InputError: `deployment.record`: The file is damaged.
    """
    path = workspace.host.run / _FILE
    try:
        return Wanted.model_validate_json(read_regular(path, follow_links=False))
    except InputFileMissingError:
        return Wanted()
    except (SealserveError, ValidationError):
        raise ClusterCode.DEPLOYMENT_RECORD.error(
            f"{path} is damaged: expected what the deployment was told to run.",
            hint="`sealserve up` writes it again.",
        ) from None


def replicas(workspace: Workspace, deployment: Deployment) -> Replicas:
    """Return how many replicas are wanted, unless a command names a number."""
    wanted, described = read(workspace), deployment.target.replicas
    if wanted.replicas is None or wanted.replicas == described:
        return Replicas(count=described)
    if wanted.described != described:
        return Replicas(count=described, replaced=wanted.replicas)
    return Replicas(count=wanted.replicas, kept=True)


def started(workspace: Workspace, deployment: Deployment) -> int:
    """Return how many replicas there should be now, whatever `up` would start."""
    return read(workspace).started or replicas(workspace, deployment).count


def keep_started(workspace: Workspace, count: int) -> None:
    """Remember how many replicas a command has started, or left."""
    _write(workspace, read(workspace).model_copy(update={"started": count}))


def keep_replicas(workspace: Workspace, deployment: Deployment, count: int) -> None:
    """Remember that a command asked for a number of replicas."""
    _write(workspace, read(workspace).model_copy(update={"replicas": count, "described": deployment.target.replicas}))


def keep_role(workspace: Workspace, *, host_only: bool) -> None:
    """Remember whether this machine is only the host. `up` says so before it starts anything."""
    _write(workspace, read(workspace).model_copy(update={"host_only": host_only}))


def keep_release(workspace: Workspace, release: str, *, newest: str | None) -> None:
    """Remember which release serves.

    Args:
        workspace: The workspace.
        release: Its name.
        newest: The name of the newest release.
    """
    before = read(workspace)
    previous = before.previous if before.release in {None, release} else before.release
    kept = {"release": release, "previous": previous, "newest": newest}
    _write(workspace, before.model_copy(update=kept))


def restore(workspace: Workspace, before: Wanted) -> None:
    """Remember again what was remembered before a command that failed and changed nothing."""
    _write(workspace, before)


@contextlib.contextmanager
def starting(
    workspace: Workspace, count: int, *, before: Wanted, stays: Callable[[BaseException], bool]
) -> Iterator[None]:
    """Keep how many replicas the block starts or leaves. If it fails, keep that or nothing.

    Args:
        workspace: Whose deployment the block changes.
        count: The number of replicas.
        before: What was wanted before the command. It is wanted again if the block fails and nothing stays.
        stays: Returns whether the change stays although the block failed.
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
