"""What ``sealserve.toml`` describes: the models, the service, the broker, the policy and where it all runs."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from sealserve import __version__
from sealserve.errors import InputError
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.terms import LARGEST_VERSION, BrokerNaming, Cloud, FrontKind, PlatformKind, ServerKind, TlsMode

_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=_NAME)]
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DnsName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}(\.{_LABEL})*$", max_length=253)]


def _as_broker_address(text: str) -> str:
    if ":" in text:
        raise ValueError(
            "Gramine's client splits its list of brokers at every colon, so it reaches no IPv6 address and takes no "
            "port here: give a DNS name (with an AAAA record for IPv6), and the port as broker.port"
        )
    return text


def _as_ip_address(text: str) -> str:
    """Return the address in its usual form. A scope (``%eth0``) is refused: it means something on one machine only."""
    if "%" in text:
        raise ValueError("an IP address without a scope is expected")
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("an IP address is expected, such as 192.0.2.7 or 2001:db8::7") from None


BrokerAddress = Annotated[
    str,
    AfterValidator(_as_broker_address),
    StringConstraints(pattern=r"^[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z])?$", max_length=253),
]
"""A DNS name or an IPv4 address, as Gramine's client reads it; no port.

Source: gramineproject/gramine 0154244, ``tools/sgx/ra-tls/secret_prov_attest.c``, ``secret_provision_start``.
"""
IpAddress = Annotated[str, AfterValidator(_as_ip_address)]
OptionalIpAddress = Annotated[str, AfterValidator(lambda text: text and _as_ip_address(text))]
"""An IP address, or an empty text for none."""
Networks = tuple[Annotated[IPv4Network, Field(strict=False)] | Annotated[IPv6Network, Field(strict=False)], ...]
LabelKey = Annotated[
    str, StringConstraints(pattern=rf"^({_LABEL}(\.{_LABEL})*/)?[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
KubernetesName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[MGT]|[KMGT]i)?$")]
# github.com/distribution/reference: an optional domain with a port, then lower-case path components
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
ImagePrefix = Annotated[
    str, StringConstraints(pattern=rf"^([A-Za-z0-9.-]+(:[0-9]+)?/)?({_PART}/)*{_PART}$", max_length=200)
]
ImageTag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
_HEADING = re.compile(r"^\s*\[\[?\s*(?P<name>[^\]\n]+?)\s*\]")
_ENTRY = re.compile(r"^\s*(?P<key>[A-Za-z0-9_.\"'-]+)\s*=")
_SMALLEST_SUBNET = 22  # a network of 8 addresses for each of 64 replicas, and those that they share


class DeploymentMissingError(InputError):
    """There is no deployment file at that path."""

    code = "deployment.missing"


class DeploymentSyntaxError(InputError):
    """The deployment file is no TOML."""

    code = "deployment.syntax"


class DeploymentKeyError(InputError):
    """The deployment file has a key that sealserve does not know."""

    code = "deployment.unknown-key"


class DeploymentValueError(InputError):
    """A value in the deployment file is missing or not usable."""

    code = "deployment.invalid-value"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """A model that is served, and where its owner keeps it: [model] for one, [[model]] for each of several."""

    name: Name = Field(description="the servable's name, as clients ask for it")
    path: Path | None = Field(
        default=None, description="a frozen graph (.pb) or a SavedModel folder; relative to this file"
    )
    version: Annotated[int, Field(ge=0, le=LARGEST_VERSION)] = Field(default=1, description="the servable's version")
    inputs: tuple[str, ...] = Field(default=("input",), description="names of a frozen graph's input nodes")
    outputs: tuple[str, ...] = Field(default=("predict",), description="names of a frozen graph's output nodes")
    labels: tuple[Name, ...] = Field(default=(), description='names of this version, such as "stable"')
    tags: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=("serve",), description="tags of the SavedModel's graph that is served"
    )
    dangerous_operations: tuple[str, ...] = Field(
        default=(), description="operations that `sealserve model lint` refuses, and that this model may have"
    )


class ServiceSection(_Section):
    """How users reach the service."""

    name: DnsName = Field(default="grpc.tf-serving.service.com", description="the name in the service's certificate")
    client_name: DnsName = Field(
        default="client.tf-serving.service.com", description="the name in the users' certificate (two-way TLS)"
    )
    tls: TlsMode = Field(default=TlsMode.TWO_WAY, description='"two-way" or "one-way"')
    port: Port = Field(default=8500, description="where NGINX listens for gRPC over TLS")
    listen: IpAddress = Field(
        default="127.0.0.1", description='the address NGINX listens on; "::" is every address, IPv4 and IPv6'
    )

    @property
    def endpoint(self) -> str:
        """Address and port where NGINX listens, with brackets around an IPv6 address."""
        return f"[{self.listen}]:{self.port}" if ":" in self.listen else f"{self.listen}:{self.port}"


class ServerSection(_Section):
    """The model server inside the enclave."""

    kind: ServerKind = Field(
        default=ServerKind.EMBEDDED,
        description='"embedded" (sealserve-model-server) or "tensorflow-serving" (its own binary; SGX only)',
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(default=1, description="TensorFlow threads of one replica")
    max_connection_age_seconds: Annotated[int, Field(ge=1)] = Field(
        default=60, description="after which a connection is drained: load evens out, and a replica can leave"
    )
    min_ping_seconds: Annotated[int, Field(ge=1, le=7200)] = Field(
        default=5, description="shortest time between a client's keepalive pings; more frequent pings end a connection"
    )
    soft_placement: bool = Field(
        default=True, description="compute on the CPU what a model has placed on a GPU; else it does not load"
    )
    batching_parameters_file: Path | None = Field(
        default=None, description="TensorFlow Serving's BatchingParameters, as text; relative to this file"
    )
    monitoring_config_file: Path | None = Field(
        default=None, description="TensorFlow Serving's MonitoringConfig, as text; relative to this file"
    )
    metrics_port: Port | None = Field(
        default=None,
        description="a port of each replica with its metrics, with TLS as for users (measured; not on target local)",
    )

    @property
    def longest_connection_seconds(self) -> int:
        """After how many seconds a connection has been drained for certain, but for a request that still runs.

        Source: grpc/grpc, ``include/grpc/impl/channel_arg_names.h``: the age is jittered by up to 10 %.
        """
        return -(-self.max_connection_age_seconds * 11 // 10)

    @model_validator(mode="after")
    def _metrics_have_tls(self) -> Self:
        if self.metrics_port is not None and self.kind is ServerKind.TENSORFLOW_SERVING:
            raise ValueError("metrics_port: TensorFlow Serving's binary has no TLS for its metrics (kind = 'embedded')")
        return self


class EnclaveSection(_Section):
    """The enclave that the model server runs in."""

    size: Annotated[str, StringConstraints(pattern=r"^(auto|[1-9][0-9]{0,6}[MG])$")] = Field(
        default="auto",
        description='"auto" (see `sealserve enclave manifest --explain`), or a power of two such as "8G"',
    )
    edmm: bool = Field(
        default=False, description="whether memory is added when it is used (a processor with SGX2, Linux 6.0)"
    )
    isv_prod_id: Annotated[int, Field(ge=0, le=0xFFFF)] = Field(
        default=0, description="the product id in its SIGSTRUCT (ISVPRODID)"
    )
    isv_svn: Annotated[int, Field(ge=0, le=0xFFFF)] = Field(
        default=0, description="the security version in its SIGSTRUCT (ISVSVN): raise it with each mended weakness"
    )

    @property
    def size_in_bytes(self) -> int | None:
        """The chosen size, or None where the rule decides."""
        return None if self.size == "auto" else int(self.size[:-1]) * {"M": 2**20, "G": 2**30}[self.size[-1]]

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        size = self.size_in_bytes
        if size is not None and size & (size - 1):
            raise ValueError(f"size should be a power of two, and {self.size!r} is none")
        return self


class BrokerSection(_Section):
    """The owner's broker: where enclaves find it, and where it asks for collateral."""

    name: DnsName = Field(default="attestation.service.com", description="the name in the broker's certificate")
    address: BrokerAddress = Field(
        default="127.0.0.1",
        description="DNS name or IPv4 address that enclaves connect to (measured: it is in the manifest)",
    )
    reached_at: str | None = Field(
        default=None, description="where a host of its own reaches the broker; by default what `address` resolves to"
    )
    listen: str = Field(
        default="127.0.0.1", description='the address the broker listens on; "::" is every address, IPv4 and IPv6'
    )
    port: Port = Field(default=4433, description="the port of the secret provisioning service")
    drain_minutes: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=60,
        description="after a roll-out, how long restarts and a roll-back still get the old release's key; 0: no end",
    )
    collateral_url: str | None = Field(
        default=None, description="where collateral comes from; Intel's PCS, or the simulated one on port 8081"
    )
    metrics_port: Port | None = Field(
        default=None,
        description="a port of 127.0.0.1 with the broker's metrics for Prometheus; by default there is none",
    )


class KeystoreSection(_Section):
    """Where the key is that encrypts the release keys."""

    kind: Literal["file", "transit"] = Field(
        default="file", description='"file" (owner/master.key), or "transit": that engine of Vault or OpenBao'
    )
    passphrase_file: Path | None = Field(
        default=None, description="a file (0600) with the passphrase of master.key, if it has one and nobody types it"
    )
    transit_url: str | None = Field(default=None, description="the address of Vault or OpenBao: https://HOST:PORT")
    transit_mount: str = Field(default="transit", description="where its transit engine is mounted")
    transit_key: str = Field(default="sealserve", description="the name of its key")
    transit_token_file: Path | None = Field(default=None, description="a file (0600) with a token that may use the key")
    transit_ca_file: Path | None = Field(default=None, description="the authority of its certificate; the system's")
    transit_namespace: str | None = Field(default=None, description="the key's namespace, if there are namespaces")

    @model_validator(mode="after")
    def _transit_is_whole(self) -> Self:
        if (self.kind == "transit" or self.transit_url) and not (self.transit_url and self.transit_token_file):
            raise ValueError("transit needs transit_url and transit_token_file")
        return self


class TcbSection(_Section):
    """Which states of a platform's trusted computing base are accepted."""

    preset: Literal["strict", "cloud-smt"] = Field(
        default="strict", description='"strict" (UpToDate only), or "cloud-smt" (see `sealserve doctor`)'
    )


class TargetSection(_Section):
    """Where it runs."""

    kind: Literal["local", "docker", "kubernetes"] = Field(
        default="local", description='"local" (processes on this machine), "docker" or "kubernetes"'
    )
    replicas: Annotated[int, Field(ge=1, le=64)] = Field(default=2, description="how many enclaves serve")
    cloud: Cloud | None = Field(
        default=None, description="whose machines the host's are; `sealserve cloud list` knows which there are"
    )


class ImagesSection(_Section):
    """What the container images are called: PREFIX-NAME:TAG."""

    prefix: ImagePrefix = Field(
        default="sealserve", description='a name, or a registry and a path: "registry.example.com/team/sealserve"'
    )
    tag: ImageTag = Field(default=__version__, description="which of them")


class DockerSection(_Section):
    """The Docker target."""

    subnet: Annotated[IPv4Network, Field(strict=False)] = Field(
        default=IPv4Network("10.213.0.0/22"), description="its networks' addresses; take others if these are in use"
    )

    @field_validator("subnet")
    @classmethod
    def _large_enough(cls, subnet: IPv4Network) -> IPv4Network:
        if subnet.prefixlen > _SMALLEST_SUBNET:
            raise ValueError(f"it must hold {2 ** (32 - _SMALLEST_SUBNET)} addresses: /{_SMALLEST_SUBNET} or larger")
        return subnet


class KubernetesSection(_Section):
    """The Kubernetes target."""

    namespace: KubernetesName = Field(default="sealserve", description="where its objects are")
    release_source: str | None = Field(
        default=None,
        description='where pods get it: "https://.../{release}.tar", "image:REFERENCE" (/bundle.tar) or "claim:NAME"',
    )
    store_folder: Path | None = Field(
        default=None, description="a folder here that `up` writes the packed release to, where the store serves it"
    )
    storage_class: str = Field(
        default="", description='with "claim:NAME": `up` makes the claim, of this class; empty: it is there already'
    )
    storage_size: Quantity = Field(default="20Gi", description="room for releases in that claim")
    inventory: Path | None = Field(
        default=None,
        description="what `sealserve enclave inventory` measured in the server's image; relative to this file",
    )
    start_seconds: Annotated[int, Field(ge=10, le=7200)] = Field(
        default=900, description="how long a replica may take to attest itself and load the model"
    )
    cpu: Quantity = Field(default="1", description="processors that a replica asks for")
    memory: Quantity = Field(default="4Gi", description="memory that a replica may use")
    epc: Quantity | None = Field(default=None, description="EPC of a replica; by default the enclave's size (SGX only)")
    epc_resource: str = Field(default="sgx.intel.com/epc", description="what the device plugin calls EPC")
    enclave_resource: str = Field(
        default="sgx.intel.com/enclave", description="what it calls the right to enclaves; empty if it has none"
    )
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="most replicas of the autoscaler; by default there is none"
    )
    cpu_percent: Annotated[int, Field(ge=1, le=100)] = Field(default=70, description="the autoscaler's target")
    latency_metric: str = Field(
        default="", description="a metric of pods that the autoscaler holds too; needs a Prometheus adapter"
    )
    latency_target: str = Field(default="100m", description="its target, as a Kubernetes quantity")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="when nodes pull images"
    )
    pull_secret: str = Field(default="", description="the Secret with the registry's password; empty for none")
    node_selector: dict[str, str] = Field(default={}, description="labels of the nodes that may run replicas")
    tolerate: tuple[str, ...] = Field(default=(), description="taints that replicas tolerate")
    front: FrontKind = Field(
        default=FrontKind.NGINX,
        description='"nginx" (our own), "gateway-api", "f5", or "ingress-nginx" (retired: existing clusters only)',
    )
    front_replicas: Annotated[int, Field(ge=1, le=20)] = Field(default=2, description="how many NGINX pods")
    service_type: Literal["LoadBalancer", "NodePort", "ClusterIP"] = Field(
        default="LoadBalancer", description="how NGINX is reached from outside"
    )
    node_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(default=None, description="its port on every node")
    service_annotations: dict[str, str] = Field(
        default={}, description="for the cloud's load balancer; they add to those of target.cloud's preset"
    )
    internal: bool = Field(
        default=False, description="whether the load balancer of target.cloud is reached from its own network alone"
    )
    ip_families: tuple[Literal["IPv4", "IPv6"], ...] = Field(
        default=(),
        max_length=2,
        description='IP families of the Services, such as ["IPv6"] or ["IPv4", "IPv6"]; empty: the cluster\'s default',
    )
    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] | Literal["image", "platform"] = Field(
        default="image",
        description='user and group id of the pods: "image" (65532), a number, or "platform": left to the cluster',
    )
    dns_namespace: KubernetesName = Field(
        default="kube-system", description="where the cluster's DNS pods are, for the NetworkPolicy"
    )
    dns_labels: dict[LabelKey, LabelValue] = Field(
        default={"k8s-app": "kube-dns"}, description="labels of the cluster's DNS pods; OpenShift has others"
    )
    dns_port: Port = Field(default=53, description="the port of the cluster's DNS pods; 5353 on OpenShift")
    dns_addresses: Networks = Field(
        default=(), description='addresses of a DNS cache on each node, such as ["169.254.20.10"]'
    )
    store_addresses: Networks = Field(
        default=(), description="networks of the store in release_source, for the NetworkPolicy; empty: any address"
    )
    proxy_protocol: bool = Field(default=False, description="whether the load balancer sends the PROXY protocol")
    gateway: str = Field(default="gateway", description="the Gateway of gateway-api: NAME or NAMESPACE/NAME")
    tls_route_version: str = Field(
        default="gateway.networking.k8s.io/v1",
        description="the version of TLSRoute that the cluster has: v1alpha2 before Gateway API 1.5",
    )
    controller_namespace: str = Field(default="ingress-nginx", description="where an existing controller's pods are")
    broker_naming: BrokerNaming = Field(
        default=BrokerNaming.DNS,
        description='"dns" (it has a name, or broker.address is an address), "coredns-hosts" or "external-name"',
    )
    broker_ip: OptionalIpAddress = Field(
        default="",
        description="the broker's IP address: coredns-hosts needs it, and the NetworkPolicy allows no other with it",
    )
    broker_external_name: str = Field(default="", description="the name that external-name leads to")
    dangerous_broker_inside: bool = Field(
        default=False,
        description="for trials of simulated enclaves: the broker runs in the cluster, whose hosts then hold the keys",
    )
    monitoring: bool = Field(
        default=False,
        description="whether the Prometheus operator gets alert rules and, with server.metrics_port, pods",
    )
    monitoring_namespace: KubernetesName = Field(
        default="monitoring", description="where Prometheus is: its pods alone reach server.metrics_port"
    )
    scrape_secret: KubernetesName = Field(
        default="sealserve-scrape",
        description="the Secret with what Prometheus needs for TLS: ca.crt and, for two-way TLS, tls.crt and tls.key",
    )

    @field_validator("ip_families")
    @classmethod
    def _families_differ(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(families)) < len(families):
            raise ValueError("each IP family may be named once")
        return families

    @field_validator("dns_labels")
    @classmethod
    def _dns_is_chosen(cls, labels: dict[str, str]) -> dict[str, str]:
        if not labels:
            raise ValueError("at least one label: without labels, every pod of dns_namespace would be reachable")
        return labels

    @model_validator(mode="after")
    def _broker_is_named(self) -> Self:
        if self.broker_naming is BrokerNaming.COREDNS_HOSTS and not self.broker_ip:
            raise ValueError("broker_naming = 'coredns-hosts' needs broker_ip")
        if self.broker_naming is BrokerNaming.EXTERNAL_NAME and not self.broker_external_name:
            raise ValueError("broker_naming = 'external-name' needs broker_external_name")
        return self


class Deployment(_Section):
    """A whole ``sealserve.toml``."""

    platform: PlatformKind = Field(default=PlatformKind.SIMULATED, description='"sgx" or "simulated"')
    models: tuple[ModelSection, ...] = Field(alias="model", min_length=1)
    service: ServiceSection = ServiceSection()
    server: ServerSection = ServerSection()
    enclave: EnclaveSection = EnclaveSection()
    broker: BrokerSection = BrokerSection()
    keystore: KeystoreSection = KeystoreSection()
    tcb: TcbSection = TcbSection()
    target: TargetSection = TargetSection()
    images: ImagesSection = ImagesSection()
    docker: DockerSection = DockerSection()
    kubernetes: KubernetesSection = KubernetesSection()

    @property
    def model(self) -> ModelSection:
        """The first model: the one that is meant where none is named."""
        return self.models[0]

    @model_validator(mode="after")
    def _models_differ(self) -> Self:
        for what in ("version", "labels"):
            seen = set()
            for model in self.models:
                for value in (model.version,) if what == "version" else model.labels:
                    if (model.name, value) in seen:
                        raise ValueError(f"model: {model.name!r} has the {what.removesuffix('s')} {value!r} twice")
                    seen.add((model.name, value))
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.service.tls is TlsMode.TWO_WAY and self.service.name == self.service.client_name:
            raise ValueError("service.name and service.client_name must differ")
        return self


def parse(text: str, *, source: str = "sealserve.toml") -> Deployment:
    """Return the deployment that ``text`` (TOML) describes.

    Args:
        text: The file's content.
        source: What to call it in errors.

    Raises:
        DeploymentSyntaxError: No TOML.
        DeploymentKeyError: A key that is not known; the message names the nearest one that is.
        DeploymentValueError: A value that is missing or not usable.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or 1,000 lists in each other, as well
        raise DeploymentSyntaxError(f"{source} is not valid TOML: {error}.") from error
    if isinstance(data.get("model"), Mapping):
        data["model"] = [data["model"]]
    try:
        # As JSON, which has the types of TOML: strict, so that `true` is no number, and "1" none either.
        return Deployment.model_validate_json(json.dumps(data, default=_refuse_date), strict=True)
    except _DatedError as error:
        raise DeploymentValueError(
            f"{source}: a date ({error.args[0]}) stands where no key takes one.", hint="Put it in quotation marks."
        ) from error
    except ValidationError as error:
        raise _explained(error, text, source) from error


class _DatedError(Exception):
    """A value of TOML is a date or a time, which no key takes."""


def _refuse_date(value: object) -> NoReturn:
    raise _DatedError(str(value))


def _explained(error: ValidationError, text: str, source: str) -> InputError:
    """Return our own error for pydantic's. An unknown key comes first: it explains why another one is missing."""
    found = error.errors(include_url=False, include_context=False)
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    keys = [part for part in first["loc"] if isinstance(part, str)]
    where = ".".join(keys) or "the file"
    line = _line_of(text, first["loc"])
    place = source if line is None else f"{source}, line {line}"
    if first["type"] == "extra_forbidden":
        return DeploymentKeyError(f"{place}: unknown key {where!r}.", hint=_nearest(keys))
    if first["type"] == "missing":
        return DeploymentValueError(f"{place}: {where!r} is missing.")
    message = first["msg"].removeprefix("Value error, ")
    value = f" (it is {_written(first['input'])})" if keys else ""
    return DeploymentValueError(f"{place}: {where}: {message}{value}.")


def _written(value: object) -> str:
    """Return a value about as TOML writes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _line_of(text: str, location: Sequence[int | str]) -> int | None:
    """Return the number of the line that sets a key, or None where it is written in another way, or not at all.

    Args:
        text: The file's content.
        location: The key, with those of the tables around it and the index of a ``[[table]]``.
    """
    keys = [part for part in location if isinstance(part, str)]
    index = next((part for part in location if isinstance(part, int)), 0)
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if (heading := _HEADING.match(line)) is not None:
            table = [part.strip(" \"'") for part in heading["name"].split(".")]
            seen[heading["name"]] = seen.get(heading["name"], -1) + 1
            if table == keys:
                return number
        elif (entry := _ENTRY.match(line)) is not None:
            path = [*table, *(part.strip(" \"'") for part in entry["key"].split("."))]
            occurrence = max(seen.get(".".join(table), 0), 0)
            if path == keys[: len(path)] and (len(keys) == 1 or occurrence == index or not table):
                return number
    return None


def read(path: Path) -> Deployment:
    """Return the deployment described by the file at ``path``; paths in it become absolute.

    Raises:
        DeploymentMissingError: No such file.
    """
    try:
        text = read_regular(path).decode("utf-8")
    except InputFileMissingError as error:
        raise DeploymentMissingError(f"There is no {path}.", hint="Run `sealserve init` to write one.") from error
    except UnicodeDecodeError as error:
        raise DeploymentSyntaxError(f"{path} is not UTF-8 text.") from error
    deployment = parse(text, source=str(path))
    here = path.parent
    models = tuple(model.model_copy(update={"path": _below(here, model.path)}) for model in deployment.models)
    files = ("batching_parameters_file", "monitoring_config_file")
    server = deployment.server.model_copy(
        update={name: _below(here, getattr(deployment.server, name)) for name in files}
    )
    kubernetes = deployment.kubernetes.model_copy(
        update={name: _below(here, getattr(deployment.kubernetes, name)) for name in ("inventory", "store_folder")}
    )
    secrets = ("passphrase_file", "transit_token_file", "transit_ca_file")
    keystore = deployment.keystore.model_copy(
        update={name: _below(here, getattr(deployment.keystore, name)) for name in secrets}
    )
    return deployment.model_copy(
        update={"models": models, "server": server, "kubernetes": kubernetes, "keystore": keystore}
    )


def _below(folder: Path, path: Path | None) -> Path | None:
    """Return a path of the file as an absolute one, without ``..`` where that names the same file."""
    if path is None:
        return None
    joined = folder / path  # an absolute path stays what it is
    plain = Path(os.path.normpath(joined))
    return plain if plain.resolve() == joined.resolve() else joined  # ".." after a link leads elsewhere


def suggest_name(model: Path) -> str:
    """Return a servable's name for the model at ``model``: its file's, with what no name may have replaced.

    A folder that is named like a version has its parent's name, as in ``resnet50/1``.
    """
    path = model.resolve()
    if path.name.isdecimal() and path.parent.name:
        path = path.parent
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:63].strip("._-")
    return name or "model"


def _nearest(location: Sequence[str]) -> str:
    section: type[BaseModel] = Deployment
    for part in location[:-1]:
        section = _section_of(_fields(section)[part])
    known = list(_fields(section))
    close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known here: {', '.join(known)}."


def _fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the keys of a section, as TOML has them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _section_of(field: FieldInfo) -> Any:
    """Return the class of a section, or of each of a field's sections; for a plain value its type."""
    return next((item for item in get_args(field.annotation) if item is ModelSection), field.annotation)


def write_example(settings: Mapping[str, Any], *, heading: str = "What sealserve deploys.") -> str:
    """Return a commented ``sealserve.toml``: every key with what it means.

    Args:
        settings: What differs from the defaults: values by key, those of a section in a mapping of their own, those of
            several models in a list of mappings. Nothing is checked; `parse` does that.
        heading: The first line's comment.
    """
    lines = [f"# {heading} Every key but model.name may be left out.", ""]
    for name, field in _fields(Deployment).items():
        section = _section_of(field)
        if not issubclass(section, _Section):
            lines += [f"{name} = {_toml(settings.get(name, field.default))}  # {field.description}", ""]
            continue
        given = settings.get(name, {})
        several = isinstance(given, Sequence)
        for values in given if several else (given,):
            lines.append(f"{f'[[{name}]]' if several else f'[{name}]'}  # {_first_sentence(section)}")
            for key, sub in section.model_fields.items():
                value = values.get(key, None if sub.is_required() else sub.default)
                text = f'# {key} = "..."' if value is None else f"{key} = {_toml(value)}"
                lines.append(f"{text}  # {sub.description}")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _first_sentence(section: type[BaseModel]) -> str:
    text = (section.__doc__ or "").strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)
