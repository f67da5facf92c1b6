"""The document that ``sealserve status --json`` prints. Its schema is docs/reference/status.schema.json.

Fields are only ever added within a version of the document.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from sealserve.cluster.target import Health, State

WELL: Final = 0
DEGRADED: Final = 5
DOWN: Final = 6


class Standing(StrEnum):
    """How well the deployment is, as one word."""

    WELL = "well"
    """Everything that there should be runs and answers."""
    DEGRADED = "degraded"
    """The service answers, and a part is down, missing, or not healthy, or a certificate has ended."""
    DOWN = "down"
    """The service does not answer: NGINX or every replica is down, or nothing runs."""

    @property
    def exit_status(self) -> int:
        """The exit status of `sealserve status`."""
        return {Standing.WELL: WELL, Standing.DEGRADED: DEGRADED, Standing.DOWN: DOWN}[self]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Served(_Part):
    """A model that the release has."""

    name: Annotated[str, Field(description="The name that clients use.")]
    versions: Annotated[tuple[int, ...], Field(description="The versions that are served, in ascending order.")]
    labels: Annotated[dict[str, int], Field(description="Labels of versions, as sealserve.toml has them.")]


class Endpoint(_Part):
    """Where users reach the service."""

    protocol: Annotated[str, Field(description="`grpc` or `rest`; both are inside TLS.")]
    address: Annotated[str, Field(description="Address and port. An IPv6 address has brackets.")]
    url: Annotated[str, Field(description="The same as a URL: `grpcs://...` or `https://...`.")]
    server_name: Annotated[str, Field(description="The name in the service's certificate.")]
    tls: Annotated[str, Field(description="`two-way` or `one-way`, as sealserve.toml has it.")]


class Replicas(_Part):
    """The number of replicas."""

    desired: Annotated[int, Field(description="How many there should be.")]
    ready: Annotated[int, Field(description="How many serve and answer.")]


class Difference(_Part):
    """A setting or a model that is described differently from what runs."""

    key: Annotated[str, Field(description="The key of sealserve.toml, or a model.")]
    released: Annotated[str | None, Field(description="The value in the release that runs; null if it has none.")]
    described: Annotated[str | None, Field(description="The value in sealserve.toml; null if it has none.")]


class CertificateEnd(_Part):
    """When a certificate ends."""

    certificate: Annotated[str, Field(description="What it is for: `service`, `broker`, `user`, `service authority`.")]
    ends: Annotated[datetime, Field(description="When, UTC.")]
    days_left: Annotated[int, Field(description="Whole days until then; negative after the end.")]


class Part(_Part):
    """A part of the deployment."""

    role: Annotated[str, Field(description="`nginx`, `replica-N`, `broker`, `relay`, `platform`, `pcs`.")]
    state: State
    health: Health
    port: Annotated[int | None, Field(description="Where it listens on this machine; null if only from within.")]
    pid: Annotated[int | None, Field(description="Its process on this machine, or null.")]
    instance: Annotated[str, Field(description="The container's or the pod's name; empty for a process.")]
    release: Annotated[str, Field(description="The release that a replica serves; empty for other parts.")]
    started: Annotated[datetime | None, Field(description="When its last run began, UTC; null if unknown.")]
    uptime_seconds: Annotated[int | None, Field(description="Since then, if it runs; else null.")]
    restarts: Annotated[int, Field(description="Starts after a crash, since it was last started on purpose.")]
    connections: Annotated[
        int | None,
        Field(description="Connections of users that have ended, since it started; null if they cannot be counted."),
    ]
    requests: Annotated[int | None, Field(description="Requests since it started; null if they cannot be counted.")]
    error: Annotated[str, Field(description="The last error of its last run, or why it ended; else empty.")]
    error_time: Annotated[datetime | None, Field(description="When that was, UTC; null if unknown.")]
    detail: Annotated[str, Field(description="More for a person.")]


class StatusDocument(_Part):
    """The state of a deployment."""

    version: Annotated[Literal[1], Field(description="Of this document.")] = 1
    time: Annotated[datetime, Field(description="When it was observed, UTC.")]
    state: Annotated[
        Standing, Field(description="`well` (exit status 0), `degraded` (5: it serves), `down` (6: it does not).")
    ]
    target: Annotated[str, Field(description="`local`, `docker` or `kubernetes`.")]
    release: Annotated[str | None, Field(description="The release that replicas serve; null if none does.")]
    models: tuple[Served, ...]
    endpoints: tuple[Endpoint, ...]
    replicas: Replicas
    drift: Annotated[
        tuple[Difference, ...] | None,
        Field(description="What differs from sealserve.toml; null if that is not known here."),
    ]
    certificates: Annotated[tuple[CertificateEnd, ...], Field(description="The one that ends next comes first.")]
    problems: Annotated[tuple[str, ...], Field(description="Why the state is not `well`.")]
    warnings: Annotated[tuple[str, ...], Field(description="What will need attention.")]
    parts: tuple[Part, ...]
