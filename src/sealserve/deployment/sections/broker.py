"""The section ``[broker]`` of ``sealserve.toml``, with its tables."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sealserve.deployment.section import Section
from sealserve.deployment.values import BrokerAddress, FilePath, IpAddress, Port
from sealserve.names import DnsName, Name
from sealserve.tcp_ports import BROKER_PORT
from sealserve.terms import MOST_PROCESSES, Approval, CollateralUpdate, LogFormat


class LimitsTable(Section):
    """The number of keys and of attestation results that a platform can receive in a period."""

    keys_per_platform: Annotated[int, Field(ge=1, le=10**6)] | None = Field(
        default=None, description="maximum number of keys for one platform in the period; by default no limit"
    )
    results_per_platform: Annotated[int, Field(ge=1, le=10**6)] | None = Field(
        default=None,
        description="maximum number of attestation results for one platform in the period; by default no limit",
    )
    period_minutes: Annotated[int, Field(ge=1, le=10**6)] = Field(
        default=60, description="the period in minutes, which ends at the time of the request"
    )


class NotificationsTable(Section):
    """Signed HTTP requests that report the broker's decisions and changes."""

    url: str | None = Field(
        default=None, description="the https URL that receives a POST for each event; by default no notifications"
    )
    secret_file: FilePath | None = Field(
        default=None, description="a file (0600) with the signing secret: `whsec_` and 24 to 64 bytes in base64"
    )
    events: tuple[Literal["released", "refused", "attested", "changed"], ...] = Field(
        default=("released", "refused"),
        min_length=1,
        description='the reported events: "released" (a key), "refused", "attested" (an attestation result), "changed" '
        "(a change by the owner or an administrator)",
    )
    ca_file: FilePath | None = Field(
        default=None, description="a PEM file with the CA of the receiver's certificate; by default the system's CAs"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.url is not None and self.secret_file is None:
            raise ValueError("a URL requires secret_file, because each notification is signed")
        return self


class BrokerSection(Section):
    """The owner's broker: the address for enclaves, and the source of its collateral."""

    name: DnsName = Field(default="attestation.service.com", description="the name in the broker's certificate")
    address: BrokerAddress = Field(
        default="127.0.0.1",
        description="DNS name or IPv4 address that enclaves connect to (measured: it is in the manifest)",
    )
    reached_at: str | None = Field(
        default=None,
        description="the broker's address for a separate host machine; by default, the IP address of `address`",
    )
    listen: str = Field(
        default="127.0.0.1", description='the address the broker listens on; "::" is every address, IPv4 and IPv6'
    )
    port: Port = Field(default=BROKER_PORT, description="the port of the secret provisioning service")
    certificate_hours: Annotated[int, Field(ge=1, le=168)] = Field(
        default=24,
        description="validity in hours of the certificates and attestation results for enclaves with their own TLS "
        "key (attested serving); a revocation takes effect on users after this time",
    )
    drain_minutes: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=60, description="minutes after a roll-out in which the old release still gets its key; 0: no limit"
    )
    collateral_url: str | None = Field(
        default=None,
        description="the URL of the collateral service; by default Intel's PCS, or the simulated PCS on port 8081",
    )
    collateral_ca_file: FilePath | None = Field(
        default=None,
        description="a PEM file with the CA of a PCCS that has a private certificate; by default the system's CAs",
    )
    collateral_update: CollateralUpdate = Field(
        default=CollateralUpdate.STANDARD,
        description='"standard", or "early": apply a TCB recovery when it is published, weeks before "standard"',
    )
    metrics_port: Port | None = Field(
        default=None, description="the port at 127.0.0.1 of the broker's Prometheus metrics; off by default"
    )
    instance: Name | None = Field(
        default=None,
        description="this broker's name in the audit log, if several brokers share a database; default: the host name",
    )
    admin_port: Port | None = Field(
        default=None, description="the port of remote administration (HTTPS with client certificates); off by default"
    )
    admin_listen: IpAddress = Field(
        default="127.0.0.1", description="the address that remote administration listens on"
    )
    approval: Approval = Field(
        default=Approval.NONE,
        description='"manual": a person approves each platform before it gets the key of a release; or "none"',
    )
    limits: LimitsTable = LimitsTable()
    notifications: NotificationsTable = NotificationsTable()
    processes: Annotated[int, Field(ge=1, le=MOST_PROCESSES)] = Field(
        default=1, description="the number of processes that release keys, each on one processor core"
    )
    log_format: LogFormat = Field(
        default=LogFormat.TEXT,
        description='the format of the broker\'s log: "text", or "json" with one object per line',
    )
