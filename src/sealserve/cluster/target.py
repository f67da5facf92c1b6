"""What every target can do: start a deployment somewhere, say how far it is, change its size, and stop it.

A target is a module that has the three functions of `TargetModule`; `sealserve.cluster.targets` knows where it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from sealserve.bundle import Bundle, Destination
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.logs.merge import LogLine
from sealserve.cluster.logs.selection import LogSelection
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.workspace import Workspace

DRAIN_SECONDS: Final = 45
"""How long a server that is asked to end may take: longer than it gives the requests that run."""

REPLICA_SECONDS: Final = 300
"""How long a replica may take to serve: importing TensorFlow, and loading a model, on a busy machine."""

NGINX: Final = "nginx"
BROKER: Final = "broker"
PLATFORM: Final = "platform"
PCS: Final = "pcs"
SUPERVISOR: Final = "supervisor"
REPLICA: Final = "replica-"
"""The beginning of each replica's role; its number follows."""

Tell: TypeAlias = Callable[[str], None]
"""Called with a few words before each thing that is done."""


def quietly(_text: str) -> None:
    """Tell nobody."""


def drain_seconds(deployment: Deployment, ages: Iterable[int | None] = ()) -> int:
    """Return after how many seconds nobody has a connection any more to replicas that new ones do not reach.

    Each connection was drained by its age, and what still ran on it then is done.

    Source: grpc/grpc, ``include/grpc/impl/channel_arg_names.h``: the age is jittered by up to 10 %.

    Args:
        deployment: What is described now. Its age counts where a replica's is not known.
        ages: The age at which each of the replicas drains a connection, as measured in its enclave. None where that is
            not known; without replicas, what is described counts.
    """
    described = deployment.server.max_connection_age_seconds
    longest = max((described if age is None else age for age in ages), default=described)
    return -(-longest * 11 // 10) + DRAIN_SECONDS


def no_log(part: str | None, known: Sequence[str]) -> SealserveError:
    """Return the error that there is no log of a part, or of any."""
    if not known:
        return ClusterCode.LOGS_UNKNOWN_PART.error(
            "There are no logs yet.", hint="Start the deployment with `sealserve up`."
        )
    return ClusterCode.LOGS_UNKNOWN_PART.error(f"There is no log of {part}; there: {', '.join(known)}.")


class State(StrEnum):
    """How far a part has come."""

    STARTING = "starting"
    REFUSED = "refused"
    ATTESTED = "attested"
    RUNNING = "running"
    NEXT = "next"
    """It could serve, and gets connections as soon as all replicas of its release could."""
    SERVING = "serving"
    LEAVING = "leaving"
    """It finishes its requests, and ends then."""
    ENDED = "ended"
    MISSING = "missing"
    """It should be there, and is not: a container or a process that was removed."""


class Health(StrEnum):
    """Whether a part answers now."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "-"
    """The part has not come far enough to be asked, or does not listen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """A part of a running deployment.

    Args:
        role: ``broker``, ``nginx``, ``replica-0``, ...
        state: How far it is.
        health: Whether it answers now.
        port: Where it listens on this machine; None if it can only be reached from within.
        pid: Its process on this machine, or None.
        instance: What the target calls it (a container, a pod); empty where it is just a process.
        release: The release that a replica serves; empty for other parts and where it is not known.
        started: When the run began that goes on or that ended last, UTC; None where it is not known.
        restarts: How often it was started again after a crash, since it was last started on purpose.
        connections: How many connections of users it has had since it started, without those that are open; None
            where the target cannot count them.
        requests: How many requests it has answered since it started; None where the target cannot count them.
        error: The last error of this run, or why it ended; empty if there was none.
        error_time: When that was, UTC; None where it is not known.
        certificate_end: When the service's certificate ends that a replica presents, UTC; None where it was not asked.
        detail: More for a person: where a part listens, the node that a pod runs on.
    """

    role: str
    state: State
    health: Health = Health.UNKNOWN
    port: int | None = None
    pid: int | None = None
    instance: str = ""
    release: str = ""
    started: datetime | None = None
    restarts: int = 0
    connections: int | None = None
    requests: int | None = None
    error: str = ""
    error_time: datetime | None = None
    certificate_end: datetime | None = None
    detail: str = ""

    @property
    def is_well(self) -> bool:
        """Whether the part does what it is there for, as far as can be seen."""
        return self.state in _WELL and self.health is not Health.UNHEALTHY


_WELL: Final = frozenset({State.RUNNING, State.NEXT, State.SERVING, State.LEAVING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """The release that replicas serve, which `Target.scale` needs as a bundle.

    Args:
        release: The release's name.
        broker_here: Whether the owner's broker runs on this machine; else only the host's folder has the release.
    """

    release: str
    broker_here: bool = True


class Target(Protocol):
    """A deployment at the place where it runs. It has the host's part: the owner prepares a release before."""

    def check(self, release: Path, *, broker_here: bool) -> None:
        """Check, before a release is prepared, that this target could start it. This changes nothing.

        Args:
            release: The release's folder: at the owner's, or at the host's where this machine is only the host.
            broker_here: Whether this machine is the owner's too, and starts the broker.

        Raises:
            SealserveError: Something is missing here, or another program has a port.
        """

    def destination(self, release: str, replicas: int) -> Destination:
        """Return where a release would run, for its owner to prepare it.

        Args:
            release: The release's name.
            replicas: How many enclaves are to serve.
        """

    def up(self, bundle: Bundle, replicas: int) -> Sequence[str]:
        """Start what does not run, and roll from another release to this one without a failed request.

        Afterwards ``replicas`` enclaves of the release serve behind NGINX.

        Args:
            bundle: The release, prepared for this target's `destination`.
            replicas: How many.

        Returns:
            The names of the releases that were served before, and that this one has replaced.

        Raises:
            SealserveError: A part did not start. What served goes on serving.
        """

    def difference(self, bundle: Bundle, replicas: int) -> str:
        """Return, as a unified diff, what `up` would change; nothing is changed.

        Args:
            bundle: The release, as it would be prepared.
            replicas: How many.
        """

    def previous_release(self) -> str:
        """Return the name of the release that was served before this one.

        Raises:
            InputError: `target.not-up`: No other release was served before.
        """

    def to_scale(self, replicas: int) -> Scaled | None:
        """Return the release that must be prepared before `scale`, or None if scaling needs no bundle.

        Raises:
            InputError: `target.not-up`: Nothing runs.
        """

    def scale(self, replicas: int, bundle: Bundle | None) -> None:
        """Start or stop replicas until there are ``replicas``; those that end finish their requests first.

        Args:
            replicas: How many. Where an autoscaler decides, it is the least that it may choose.
            bundle: The release that `to_scale` named, prepared; None if it named none.

        Raises:
            InputError: `target.not-up`: Nothing runs.
        """

    def status(self) -> Sequence[PartStatus]:
        """Return the state of every part that there is."""

    def expected(self, replicas: int) -> Sequence[str]:
        """Return the roles of the parts that there should be; a role that several parts have is there several times.

        Args:
            replicas: How many replicas are wanted, where the target itself does not know.
        """

    def endpoints(self) -> Mapping[str, str]:
        """Return where users reach the service: address and port by protocol, ``grpc`` and, if it is on, ``rest``."""

    def logs(self, part: str | None, selection: LogSelection) -> Iterator[LogLine]:
        """Yield what the parts logged, ordered by time.

        Args:
            part: The role of one, or what the target calls it; None for all.
            selection: Which lines, and whether new lines follow.

        Raises:
            InputError: `logs.unknown-part`: There is no log of that part.
        """


class TargetModule(Protocol):
    """What the module of a target has. Stopping needs the workspace's record only, not what started it."""

    def open_target(self, workspace: Workspace, deployment: Deployment, *, tell: Tell) -> Target:
        """Return the target.

        Args:
            workspace: With the parts of the machines that this one is.
            deployment: What it describes.
            tell: Called with a few words before each thing that is done.

        Raises:
            InputError: `target.unsupported`: It cannot run this deployment.
        """

    def running(self, workspace: Workspace) -> Sequence[str]:
        """Return the roles of what runs of a workspace; nothing if this target was never used."""

    def stop_all(self, workspace: Workspace, *, tell: Tell) -> Sequence[str]:
        """Stop and remove all that was started of a workspace, in the order in which requests come; return the roles.

        What the workspace keeps stays: keys, releases, logs.
        """
