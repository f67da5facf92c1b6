"""The section ``[server]`` of ``sealserve.toml``, with the table of its traces."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from sealserve.deployment.section import Section
from sealserve.deployment.values import FilePath, Port
from sealserve.errors import SealserveError
from sealserve.tcp_ports import REST_PORT, SERVICE_PORT
from sealserve.terms import ServerKind
from sealserve.tracing.collector import Collector


def _as_collector(text: str) -> str:
    try:
        Collector.parse(text)
    except SealserveError as error:
        raise ValueError(f"{error.message} {error.hint}") from None
    return text


class TracesTable(Section):
    """Traces of the start and of requests, which each replica sends to a collector."""

    endpoint: Annotated[str, AfterValidator(_as_collector)] | None = Field(
        default=None,
        description="https://HOST:PORT of the OpenTelemetry collector that receives traces, with OTLP over gRPC "
        "(measured); by default traces are off",
    )
    ca_file: FilePath | None = Field(
        default=None,
        description="a PEM file with the CA of the collector's certificate, for an https:// endpoint (sealed); by "
        "default the CAs in gRPC's package",
    )
    percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=1, description="percentage of the requests without a trace context that are traced (measured)"
    )
    per_second: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=100, description="maximum number of traced requests per second of one replica (measured)"
    )
    dangerous_plaintext: bool = Field(
        default=False,
        description="whether the collector may have an http:// address, without TLS; the host and the network can "
        "then read and change traces (measured)",
    )

    @property
    def collector(self) -> Collector | None:
        """The collector, or None if traces are off."""
        return None if self.endpoint is None else Collector.parse(self.endpoint)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        collector = self.collector
        if collector is not None and not collector.tls and not self.dangerous_plaintext:
            raise ValueError(
                "the endpoint has no TLS: use https://, or set dangerous_plaintext = true if no other machine can read "
                "the network"
            )
        if self.dangerous_plaintext and (collector is None or collector.tls):
            raise ValueError("dangerous_plaintext is only for an http:// endpoint: remove it")
        return self


class ServerSection(Section):
    """The model server inside the enclave."""

    kind: ServerKind = Field(
        default=ServerKind.EMBEDDED,
        description='"embedded" (sealserve-model-server) or "tensorflow-serving" (its own binary; SGX only)',
    )
    dangerous_owner_tls_key: bool = Field(
        default=False,
        description="whether the owner creates the service's TLS key and seals it into the release; the owner can then "
        "read all requests; with kind = 'tensorflow-serving', this is always so",
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(default=1, description="TensorFlow threads of one replica")
    max_connection_age_seconds: Annotated[int, Field(ge=1)] = Field(
        default=60,
        description="seconds after which a connection is drained, so that load spreads and replicas can stop",
    )
    min_ping_seconds: Annotated[int, Field(ge=1, le=7200)] = Field(
        default=5,
        description="shortest time in seconds between keepalive pings of a client; faster pings end the connection",
    )
    soft_placement: bool = Field(
        default=True,
        description="whether operations assigned to a GPU run on the CPU; if false, a model with them does not load",
    )
    rest: bool = Field(
        default=False,
        description="whether users also reach TensorFlow Serving's REST API, with the same TLS (measured)",
    )
    batching_parameters_file: FilePath | None = Field(
        default=None, description="TensorFlow Serving's BatchingParameters, as text; relative to this file"
    )
    dangerous_shared_batches: bool = Field(
        default=False,
        description="whether an attested server may compute the requests of several users in one batch; the model can "
        "then answer one user with the input of another user (measured)",
    )
    monitoring_config_file: FilePath | None = Field(
        default=None, description="TensorFlow Serving's MonitoringConfig, as text; relative to this file"
    )
    metrics_port: Port | None = Field(
        default=None,
        description="port of each replica's metrics, with the same TLS as for users (measured; not on target local)",
    )
    traces: TracesTable = TracesTable()

    @property
    def attested(self) -> bool:
        """Whether the enclave creates its TLS key itself and proves this to users. The owner does not have the key."""
        return self.kind is ServerKind.EMBEDDED and not self.dangerous_owner_tls_key

    @model_validator(mode="after")
    def _metrics_have_tls(self) -> Self:
        if self.metrics_port is not None and self.kind is ServerKind.TENSORFLOW_SERVING:
            raise ValueError(
                "metrics_port: TensorFlow Serving's binary does not support TLS for metrics; use kind = 'embedded'"
            )
        return self

    @model_validator(mode="after")
    def _traces_are_supported(self) -> Self:
        if self.traces.endpoint is not None and self.kind is ServerKind.TENSORFLOW_SERVING:
            raise ValueError("traces: TensorFlow Serving's binary does not send traces; use kind = 'embedded'")
        return self

    @model_validator(mode="after")
    def _rest_has_tls(self) -> Self:
        if self.rest and self.kind is ServerKind.TENSORFLOW_SERVING:
            raise ValueError(
                "rest: TensorFlow Serving's binary does not support TLS for the REST API; use kind = 'embedded'"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.metrics_port in {SERVICE_PORT, *([REST_PORT] if self.rest else [])}:
            raise ValueError(f"metrics_port: replicas already use port {self.metrics_port} for requests")
        return self
