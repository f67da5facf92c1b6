"""Sections of ``sealserve.toml`` that apply to every target."""

from ipaddress import IPv4Network
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from sealserve import __version__
from sealserve.addresses import with_port
from sealserve.deployment.section import Section, at_key
from sealserve.deployment.values import (
    BrokerAddress,
    EnclaveSize,
    FilePath,
    ImagePrefix,
    ImageTag,
    IpAddress,
    IPv4Subnet,
    Port,
    SignerName,
)
from sealserve.errors import SealserveError
from sealserve.names import DnsName, Name
from sealserve.tcp_ports import BROKER_PORT, REST_PORT, SERVICE_PORT
from sealserve.terms import (
    LARGEST_VERSION,
    MOST_PROCESSES,
    Approval,
    Cloud,
    CollateralUpdate,
    CpuFeature,
    LogFormat,
    Precision,
    ServerKind,
    TargetKind,
    TlsMode,
)
from sealserve.tracing.collector import Collector

_SIGNER_KEYS: Final = ("signer_key", "signer_ca", "signer_identity", "signer_issuer", "signer_trust_file")
_SIGNERS: Final = (
    {"signer_key"},
    {"signer_ca", "signer_identity"},
    {"signer_identity", "signer_issuer"},
    {"signer_identity", "signer_issuer", "signer_trust_file"},
)
"""The combinations of settings that name a signer: a key, a certificate, or an identity of Sigstore."""
_NETWORK_PREFIX: Final = 29  # 8 addresses: the network's, the gateway's, 3 in use, the broadcast address
_SMALLEST_SUBNET: Final = 27  # 4 networks: one for a replica, two shared, and one for a roll-out


class ModelSection(Section):
    """A served model and the location of its plaintext. Use [model] for one model, [[model]] for each of several."""

    name: Name = Field(description="the name that clients use to request the model")
    path: FilePath | None = Field(
        default=None, description="a frozen graph (.pb) or a SavedModel folder; relative to this file"
    )
    version: Annotated[int, Field(ge=0, le=LARGEST_VERSION)] = Field(
        default=1, description="the version that clients see; raise it to serve a new model"
    )
    inputs: tuple[str, ...] = Field(default=("input",), description="names of a frozen graph's input nodes")
    outputs: tuple[str, ...] = Field(default=("predict",), description="names of a frozen graph's output nodes")
    labels: tuple[Name, ...] = Field(default=(), description='names of this version, such as "stable"')
    tags: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=("serve",), description="tags that select the graph of the SavedModel to serve"
    )
    warm_up: bool = Field(
        default=False,
        description="add a warm-up request of zeros to a model without warm-up requests, so that the first user's "
        "request is as fast as the others",
    )
    dangerous_operations: tuple[str, ...] = Field(
        default=(), description="operations that `sealserve model lint` rejects and that this model may still contain"
    )
    optimize: Precision | None = Field(
        default=None,
        description='"float32" or "bfloat16": seal a faster form of the model with this precision; by default, seal '
        "the model as it is",
    )
    optimize_inputs: FilePath | None = Field(
        default=None,
        description="inputs (.npz, by name) for the comparison of the faster form with the model; by default generated",
    )
    optimize_min_top1: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.99,
        description="minimum share of rows with the same highest class in both; otherwise the faster form is rejected",
    )
    signature: FilePath | None = Field(
        default=None,
        description="OpenSSF Model Signing signature of the model (default: model.sig in or beside the model's folder)",
    )
    signer_key: FilePath | None = Field(
        default=None, description="the signer's public key (PEM), if the model must be signed with this key"
    )
    signer_ca: FilePath | None = Field(
        default=None, description="certificate authority (PEM) of the signer; needs signer_identity"
    )
    signer_identity: SignerName | None = Field(
        default=None,
        description="with signer_ca, the subject of the signer's certificate (RFC 4514); else an identity of Sigstore",
    )
    signer_issuer: SignerName | None = Field(
        default=None, description="the OpenID Connect issuer of an identity of Sigstore"
    )
    signer_trust_file: FilePath | None = Field(
        default=None, description="client trust configuration of Sigstore (JSON), to verify without network"
    )

    @property
    def trusts_a_signer(self) -> bool:
        """Whether the settings name a signer. The model must then have a valid signature."""
        return self.signer_key is not None or self.signer_identity is not None

    @model_validator(mode="after")
    def _one_signer(self) -> Self:
        named = {name for name in _SIGNER_KEYS if getattr(self, name) is not None}
        if named and named not in _SIGNERS:
            raise ValueError(
                "the signer is ambiguous or incomplete: set signer_key, or signer_ca and signer_identity, or "
                "signer_identity and signer_issuer (optionally with signer_trust_file)"
            )
        if named and self.optimize is not None:
            raise ValueError(
                "optimize: the signature covers the original model, and not its faster form; run `sealserve model "
                "optimize`, have the result signed, and set path to it"
            )
        return self


class ServiceSection(Section):
    """The address, names and TLS mode of the service for users."""

    name: DnsName = Field(
        default="grpc.tf-serving.service.com",
        description="the DNS name in the service's certificate, which clients verify",
    )
    client_name: DnsName = Field(
        default="client.tf-serving.service.com", description="the name in the client certificate (two-way TLS)"
    )
    tls: TlsMode = Field(
        default=TlsMode.TWO_WAY, description='"two-way" (users need a client certificate) or "one-way"'
    )
    port: Port = Field(default=SERVICE_PORT, description="the port where NGINX accepts gRPC over TLS")
    rest_port: Port = Field(
        default=REST_PORT, description="the port where NGINX accepts REST over TLS, if server.rest is true"
    )
    listen: IpAddress = Field(
        default="127.0.0.1", description='the address NGINX listens on; "::" is every address, IPv4 and IPv6'
    )
    tls_certificate_file: FilePath | None = Field(
        default=None,
        description="the service's certificate from another CA, such as a public CA, with all intermediate "
        "certificates (PEM); only with a TLS key of the owner's",
    )
    tls_key_file: FilePath | None = Field(
        default=None, description="the private key of `tls_certificate_file` (PEM, mode 0600)"
    )
    tls_root_file: FilePath | None = Field(
        default=None, description="the root certificates of this CA, which users trust (PEM)"
    )

    @property
    def endpoint(self) -> str:
        """Address and port where NGINX listens for gRPC, with brackets around an IPv6 address."""
        return with_port(self.listen, self.port)

    @property
    def rest_endpoint(self) -> str:
        """Address and port where NGINX listens for REST, if server.rest is true."""
        return with_port(self.listen, self.rest_port)


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


class EnclaveSection(Section):
    """The enclave that the model server runs in."""

    size: EnclaveSize = Field(
        default="auto",
        description='"auto" (see `sealserve enclave manifest --explain`), or a power of two such as "8G"',
    )
    edmm: bool = Field(
        default=False,
        description="whether the enclave adds memory on demand (EDMM; requires SGX2 and Linux 6.0)",
    )
    required_cpu_features: tuple[CpuFeature, ...] = Field(
        default=(),
        description='"avx", "avx512", "amx": the enclave starts only on a processor with these features (measured); by '
        "default, it uses each of them if the processor has it",
    )
    isv_prod_id: Annotated[int, Field(ge=0, le=0xFFFF)] = Field(
        default=0, description="the product ID in the enclave's SIGSTRUCT (ISVPRODID)"
    )
    isv_svn: Annotated[int, Field(ge=0, le=0xFFFF)] = Field(
        default=0,
        description="the security version in the enclave's SIGSTRUCT (ISVSVN); raise it with each security fix",
    )

    @property
    def size_in_bytes(self) -> int | None:
        """The chosen size in bytes, or None for ``auto``."""
        return None if self.size == "auto" else int(self.size[:-1]) * {"M": 2**20, "G": 2**30}[self.size[-1]]

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        size = self.size_in_bytes
        if size is not None and size & (size - 1):
            raise at_key("enclave.size", f"expected a power of two, got {self.size!r}")
        return self


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
        default=None,
        description="a PEM file with the CA of the receiver's certificate; by default the system's CAs",
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
        default=60,
        description="minutes after a roll-out in which the old release still gets its key; 0: no limit",
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
        default=None,
        description="the port at 127.0.0.1 of the broker's Prometheus metrics; off by default",
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
        default=1,
        description="the number of processes that release keys, each on one processor core",
    )
    log_format: LogFormat = Field(
        default=LogFormat.TEXT,
        description='the format of the broker\'s log: "text", or "json" with one object per line',
    )


class KeystoreSection(Section):
    """The location of the key that encrypts the release keys."""

    kind: Literal["file", "transit", "pkcs11"] = Field(
        default="file",
        description='"file" (owner/master.key), "transit" (the transit engine of Vault or OpenBao), or "pkcs11" '
        "(a PKCS#11 token)",
    )
    passphrase_file: FilePath | None = Field(
        default=None,
        description="a file (0600) with the passphrase of master.key, for unattended starts",
    )
    transit_url: str | None = Field(default=None, description="the URL of Vault or OpenBao: https://HOST:PORT")
    transit_mount: str = Field(default="transit", description="the mount path of the transit engine")
    transit_key: str = Field(default="sealserve", description="the name of the key in the transit engine")
    transit_token_file: FilePath | None = Field(
        default=None, description="a file (0600) with a token that may use the key"
    )
    transit_ca_file: FilePath | None = Field(
        default=None,
        description="CA certificates for transit_url; by default the system's CA certificates",
    )
    transit_namespace: str | None = Field(
        default=None, description="the namespace of the key, if namespaces are in use"
    )
    pkcs11_module: FilePath | None = Field(default=None, description="the PKCS#11 library of the token's vendor")
    pkcs11_token: str | None = Field(default=None, description="the label of the token")
    pkcs11_serial: str | None = Field(
        default=None, description="the serial number of the token, if several tokens have the same label"
    )
    pkcs11_key: str = Field(default="sealserve", description="the label of the AES key in the token")
    pkcs11_pin_file: FilePath | None = Field(default=None, description="a file (0600) with the PIN of the token's user")
    pkcs11_files: tuple[FilePath, ...] = Field(
        default=(),
        description="files and folders that the module needs in the broker's container, which sees them read-only at "
        "the same paths; only for the Docker target",
    )

    @model_validator(mode="after")
    def _transit_is_whole(self) -> Self:
        if (self.kind == "transit" or self.transit_url) and not (self.transit_url and self.transit_token_file):
            raise ValueError("kind = 'transit' requires transit_url and transit_token_file")
        return self

    @model_validator(mode="after")
    def _token_is_whole(self) -> Self:
        wanted = self.kind == "pkcs11" or self.pkcs11_module is not None
        if wanted and not (self.pkcs11_module and self.pkcs11_token and self.pkcs11_pin_file):
            raise ValueError("kind = 'pkcs11' requires pkcs11_module, pkcs11_token and pkcs11_pin_file")
        return self


class TcbSection(Section):
    """The accepted states of a platform's trusted computing base (TCB)."""

    preset: Literal["strict", "cloud-smt"] = Field(
        default="strict",
        description='"strict" (UpToDate), or "cloud-smt" (also hardening needed: INTEL-SA-00289 and INTEL-SA-00615)',
    )
    policy_file: FilePath | None = Field(
        default=None,
        description="a policy file with all rules, instead of a preset; `sealserve broker policy check` validates it",
    )

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if self.policy_file is not None and "preset" in self.model_fields_set:
            raise ValueError("preset and policy_file cannot be used together; remove one of them")
        return self


class TargetSection(Section):
    """The target: where the deployment runs."""

    kind: TargetKind = Field(
        default=TargetKind.LOCAL, description='"local" (processes on this machine), "docker" or "kubernetes"'
    )
    replicas: Annotated[int, Field(ge=1)] = Field(default=2, description="number of enclaves that serve")
    cloud: Cloud | None = Field(
        default=None, description="the cloud that the host runs in; `sealserve cloud list` prints the names"
    )


class ImagesSection(Section):
    """Names of the container images: PREFIX-NAME:TAG."""

    prefix: ImagePrefix = Field(
        default="sealserve", description='a name, or a registry and a path: "registry.example.com/team/sealserve"'
    )
    tag: ImageTag = Field(default=__version__, description="version of the images")


class DockerSection(Section):
    """The Docker target."""

    subnet: IPv4Subnet = Field(
        default=IPv4Network("10.213.0.0/22"),
        description="subnet of the deployment's networks, eight addresses per replica; change it if it is in use",
    )

    @field_validator("subnet")
    @classmethod
    def _large_enough(cls, subnet: IPv4Network) -> IPv4Network:
        if subnet.prefixlen > _SMALLEST_SUBNET:
            raise ValueError(
                f"expected at least {2 ** (32 - _SMALLEST_SUBNET)} addresses: /{_SMALLEST_SUBNET} or larger"
            )
        return subnet

    @property
    def networks(self) -> int:
        """The number of networks that the subnet has room for."""
        return 1 << (_NETWORK_PREFIX - self.subnet.prefixlen)

    def network(self, number: int) -> IPv4Network:
        """Return one of the networks, counted from 0."""
        address = self.subnet.network_address + number * 2 ** (32 - _NETWORK_PREFIX)
        return IPv4Network((address, _NETWORK_PREFIX))
