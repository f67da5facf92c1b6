"""The interface of every target: start a deployment, report its status, scale it and stop it.

A target is a module with the functions of `TargetModule`. `sealserve.cluster.targets` maps names to modules.
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
from sealserve.cluster.presented_certificate import PresentedCertificate
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.workspace import Workspace

DRAIN_SECONDS: Final = 45
"""Maximum time for a server to stop: longer than the time that it gives to running requests."""

REPLICA_SECONDS: Final = 300
"""Maximum time for a replica to serve: importing TensorFlow and loading a model, on a busy machine."""

NGINX: Final = "nginx"
BROKER: Final = "broker"
PLATFORM: Final = "platform"
PCS: Final = "pcs"
SUPERVISOR: Final = "supervisor"
REPLICA: Final = "replica-"
"""Prefix of each replica's role. The replica's number follows."""

Tell: TypeAlias = Callable[[str], None]
"""Called with a short progress text before each step."""


def quietly(_text: str) -> None:
    """Discard the text."""


def drain_seconds(deployment: Deployment, ages: Iterable[int | None] = ()) -> int:
    """Return the seconds after which replicas without new connections have no connections left.

    By then, every connection has reached its maximum age, and its remaining requests have finished.

    Source: grpc/grpc, ``include/grpc/impl/channel_arg_names.h``: the age is jittered by up to 10 %.

    Args:
        deployment: The current deployment file. Its age applies where a replica's age is unknown.
        ages: The measured connection age of each replica's enclave. None where it is unknown. Without replicas, the
            deployment's age applies.
    """
    described = deployment.server.max_connection_age_seconds
    longest = max((described if age is None else age for age in ages), default=described)
    return -(-longest * 11 // 10) + DRAIN_SECONDS


def no_log(part: str | None, known: Sequence[str]) -> SealserveError:
    """Return the error for a missing log of a part, or for no logs at all."""
    if not known:
        return ClusterCode.LOGS_UNKNOWN_PART.error(
            "The deployment has no logs yet.", hint="Start the deployment with `sealserve up`."
        )
    return ClusterCode.LOGS_UNKNOWN_PART.error(
        f"No log of {part} exists.", hint=f"Choose a part that has a log: {', '.join(known)}."
    )


class State(StrEnum):
    """The progress of a part."""

    STARTING = "starting"
    REFUSED = "refused"
    ATTESTED = "attested"
    RUNNING = "running"
    NEXT = "next"
    """It can serve. It gets connections as soon as all replicas of its release can serve."""
    SERVING = "serving"
    LEAVING = "leaving"
    """It finishes its requests and then ends."""
    ENDED = "ended"
    MISSING = "missing"
    """It should exist but does not: a container or a process was removed."""


class Health(StrEnum):
    """Whether a part answers now."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "-"
    """The part is not ready to be checked yet, or it does not listen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """The status of one part of a deployment.

    Args:
        role: ``broker``, ``nginx``, ``replica-0``, ...
        state: Its progress.
        health: Whether it answers now.
        port: The port on this machine. None if the part is not reachable from outside the target.
        pid: Its process ID on this machine, or None.
        instance: The target's name for the part (a container, a pod). Empty for a plain process.
        release: The release that a replica serves. Empty for other parts, and where it is unknown.
        started: Start of the current or last run, UTC. None where it is unknown.
        restarts: Number of restarts after crashes since the part was last started on purpose.
        connections: Number of finished user connections since the part started. None where the target cannot count
            them.
        requests: Number of answered requests since the part started. None where the target cannot count them.
        error: The last error of this run, or the reason why it ended. Empty if no error occurred.
        error_time: Time of the error, UTC. None where it is unknown.
        certificate: The certificate that a replica presents. None where it was not checked.
        detail: Additional text for people: where a part listens, or the node of a pod.
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
    certificate: PresentedCertificate | None = None
    detail: str = ""

    @property
    def is_well(self) -> bool:
        """Whether the part works, as far as the target can determine."""
        return self.state in _WELL and self.health is not Health.UNHEALTHY


_WELL: Final = frozenset({State.RUNNING, State.NEXT, State.SERVING, State.LEAVING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """The release that replicas serve, which `Target.scale` needs as a bundle.

    Args:
        release: The release's name.
        broker_here: Whether the owner's broker runs on this machine. If not, only the host's folder has the release.
    """

    release: str
    broker_here: bool = True


class Target(Protocol):
    """A deployment on a target. This is the host's side: the owner prepares the release first."""

    def check(self, release: Path, *, broker_here: bool) -> None:
        """Check that this target could start a release, before the release is prepared. This changes nothing.

        Args:
            release: The release's folder: in the owner's part, or in the host's part on a machine that is only a host.
            broker_here: Whether this machine is also the owner's and starts the broker.

        Raises:
            SealserveError: A requirement is missing, or a port is in use.
        """

    def destination(self, release: str, replicas: int) -> Destination:
        """Return where a release would run, so that its owner can prepare it.

        Args:
            release: The release's name.
            replicas: The number of enclaves that are to serve.
        """

    def up(self, bundle: Bundle, replicas: int) -> Sequence[str]:
        """Start every part that does not run, and roll from another release to this one without failed requests.

        Afterwards, ``replicas`` enclaves of the release serve behind NGINX.

        Args:
            bundle: The release, prepared for this target's `destination`.
            replicas: The number of replicas.

        Returns:
            The names of the previously served releases that this release has replaced.

        Raises:
            SealserveError: A part did not start. Parts that served before continue to serve.
        """

    def difference(self, bundle: Bundle, replicas: int) -> str:
        """Return a unified diff of what `up` would change. Nothing is changed.

        Args:
            bundle: The release, as it would be prepared.
            replicas: The number of replicas.
        """

    def previous_release(self) -> str:
        """Return the name of the release that was served before the current release.

        Raises:
            InputError: `target.not-up` if no other release was served before.
        """

    def to_scale(self, replicas: int) -> Scaled | None:
        """Return the release that must be prepared before `scale`, or None if scaling requires no bundle.

        Raises:
            InputError: `target.not-up` if no replica runs.
        """

    def scale(self, replicas: int, bundle: Bundle | None) -> None:
        """Start or stop replicas until ``replicas`` run. Replicas that stop finish their requests first.

        Args:
            replicas: The number of replicas. With an autoscaler, this is its minimum.
            bundle: The prepared release that `to_scale` returned, or None if it returned None.

        Raises:
            InputError: `target.not-up` if no replica runs.
        """

    def status(self) -> Sequence[PartStatus]:
        """Return the status of every existing part."""

    def expected(self, replicas: int) -> Sequence[str]:
        """Return the roles of the parts that should exist. A role with several parts occurs several times.

        Args:
            replicas: The wanted number of replicas, for targets that do not record it.
        """

    def endpoints(self) -> Mapping[str, str]:
        """Return where users reach the service: ``HOST:PORT`` by protocol, ``grpc`` and, if it is on, ``rest``."""

    def logs(self, part: str | None, selection: LogSelection) -> Iterator[LogLine]:
        """Yield the log lines of the parts, ordered by time.

        Args:
            part: The role of a part, or the target's name for it. None for all parts.
            selection: Which lines to yield, and whether to follow new lines.

        Raises:
            InputError: `logs.unknown-part` if the part has no log.
        """


class TargetModule(Protocol):
    """The module of a target. Stopping requires only the workspace's record, not the deployment file."""

    def open_target(self, workspace: Workspace, deployment: Deployment, *, tell: Tell) -> Target:
        """Return the target.

        Args:
            workspace: The workspace, with the folders of the roles that this machine has.
            deployment: The deployment that the workspace describes.
            tell: Called with a short progress text before each step.

        Raises:
            InputError: `target.unsupported` if the target cannot run this deployment.
        """

    def running(self, workspace: Workspace) -> Sequence[str]:
        """Return the roles of a workspace's running parts. Empty if this target was never used."""

    def stop_all(self, workspace: Workspace, *, tell: Tell) -> Sequence[str]:
        """Stop and remove all parts of a workspace, NGINX first, then the replicas. Return the roles.

        Keys, releases and logs of the workspace are retained.
        """
