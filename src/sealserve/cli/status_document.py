"""The document that ``sealserve status --json`` prints. Its schema is docs/reference/status.schema.json.

Within a version of the document, fields are added but never removed or changed.
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
    """The state of the whole deployment."""

    WELL = "well"
    """All expected parts run and answer."""
    DEGRADED = "degraded"
    """The service answers, but a part is down, missing or unhealthy, or a certificate has expired."""
    DOWN = "down"
    """The service does not answer: NGINX or every replica is down, or the deployment is not running."""

    @property
    def exit_status(self) -> int:
        """The exit status of `sealserve status`."""
        return {Standing.WELL: WELL, Standing.DEGRADED: DEGRADED, Standing.DOWN: DOWN}[self]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Served(_Part):
    """A model of the served release."""

    name: Annotated[str, Field(description="Name with which clients request the model.")]
    versions: Annotated[tuple[int, ...], Field(description="Served versions, in ascending order.")]
    labels: Annotated[dict[str, int], Field(description="Labels and their versions, from sealserve.toml.")]


class Endpoint(_Part):
    """An address at which users reach the service."""

    protocol: Annotated[str, Field(description="`grpc` or `rest`, both over TLS.")]
    address: Annotated[str, Field(description="Host and port. An IPv6 address is in brackets.")]
    url: Annotated[str, Field(description="The address as a URL: `grpcs://...` or `https://...`.")]
    server_name: Annotated[str, Field(description="Name in the service's certificate.")]
    tls: Annotated[str, Field(description="TLS mode from sealserve.toml: `two-way` or `one-way`.")]


class Replicas(_Part):
    """The number of replicas."""

    desired: Annotated[int, Field(description="Desired number of replicas.")]
    ready: Annotated[int, Field(description="Number of replicas that serve and answer.")]


class Difference(_Part):
    """A setting or a model that differs between the running release and sealserve.toml."""

    key: Annotated[str, Field(description="Key in sealserve.toml, or a model.")]
    released: Annotated[str | None, Field(description="Value in the running release; null if it is not set there.")]
    described: Annotated[str | None, Field(description="Value in sealserve.toml; null if it is not set there.")]


class CertificateEnd(_Part):
    """The expiry of a certificate."""

    certificate: Annotated[
        str, Field(description="Purpose of the certificate: `service`, `broker`, `user`, `service authority`, ...")
    ]
    ends: Annotated[datetime, Field(description="Time of expiry, UTC.")]
    days_left: Annotated[int, Field(description="Whole days until the expiry; negative after it.")]


class Part(_Part):
    """A part of the deployment."""

    role: Annotated[
        str, Field(description="Name of the part: `nginx`, `replica-N`, `broker`, `relay`, `platform`, `pcs`.")
    ]
    state: State
    health: Health
    port: Annotated[
        int | None,
        Field(description="TCP port on this machine; null if the part can be reached only from inside the deployment."),
    ]
    pid: Annotated[int | None, Field(description="Process id on this machine, or null.")]
    instance: Annotated[str, Field(description="Name of the container or pod; empty for a process.")]
    release: Annotated[str, Field(description="Release that a replica serves; empty for other parts.")]
    started: Annotated[datetime | None, Field(description="Start of the last run, UTC; null if unknown.")]
    uptime_seconds: Annotated[int | None, Field(description="Seconds since the start; null if the part does not run.")]
    restarts: Annotated[
        int, Field(description="Number of restarts after a crash, since the part was last started by a command.")
    ]
    connections: Annotated[
        int | None,
        Field(description="Number of ended user connections since the start; null if they cannot be counted."),
    ]
    requests: Annotated[
        int | None, Field(description="Number of requests since the start; null if they cannot be counted.")
    ]
    error: Annotated[str, Field(description="Last error of the last run, or the reason why it ended; else empty.")]
    error_time: Annotated[datetime | None, Field(description="Time of this error, UTC; null if unknown.")]
    detail: Annotated[str, Field(description="Further information for people.")]


class StatusDocument(_Part):
    """The state of a deployment."""

    version: Annotated[Literal[1], Field(description="Version of this document's format.")] = 1
    time: Annotated[datetime, Field(description="Time of the observation, UTC.")]
    state: Annotated[
        Standing,
        Field(
            description="`well` (exit status 0), `degraded` (5: the service answers), `down` (6: it does not answer)."
        ),
    ]
    target: Annotated[str, Field(description="`local`, `docker` or `kubernetes`.")]
    release: Annotated[str | None, Field(description="Release that the replicas serve; null if no replica serves.")]
    models: tuple[Served, ...]
    endpoints: tuple[Endpoint, ...]
    replicas: Replicas
    drift: Annotated[
        tuple[Difference, ...] | None,
        Field(
            description="Differences between the running release and sealserve.toml; null if this machine cannot "
            "compare them."
        ),
    ]
    certificates: Annotated[
        tuple[CertificateEnd, ...], Field(description="Expiry of certificates, the next one to expire first.")
    ]
    problems: Annotated[tuple[str, ...], Field(description="Reasons why the state is not `well`.")]
    warnings: Annotated[tuple[str, ...], Field(description="Conditions that will need attention.")]
    parts: tuple[Part, ...]
