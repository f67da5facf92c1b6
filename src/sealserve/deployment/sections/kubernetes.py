"""The section ``[kubernetes]`` of ``sealserve.toml``, with one table for each part of a deployment in a cluster."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sealserve.deployment.replica_limit import MOST_IN_CLUSTER
from sealserve.deployment.section import Section
from sealserve.deployment.values import (
    FilePath,
    KubernetesName,
    LabelKey,
    LabelValue,
    Networks,
    OptionalIpAddress,
    Port,
    Quantity,
)
from sealserve.terms import BrokerNaming, IngressKind


class StoreTable(Section):
    """The store from which pods fetch the release."""

    source: str | None = Field(
        default=None,
        description='"https://.../{release}.tar", "image:REFERENCE" (the image holds /bundle.tar) or "claim:NAME"',
    )
    folder: FilePath | None = Field(
        default=None,
        description="a folder on this machine where `up` writes the packed release, if the store serves this folder",
    )
    addresses: Networks = Field(
        default=(),
        description="networks of the store in `source`, for the NetworkPolicy; empty: every address is allowed",
    )
    storage_class: str = Field(
        default="",
        description='with "claim:NAME", the class of the claim that `up` creates; empty: the claim already exists',
    )
    storage_size: Quantity = Field(default="20Gi", description="size of the claim that `up` creates")


class ResourcesTable(Section):
    """The resources of each replica."""

    cpu: Quantity = Field(default="1", description="processors that a replica requests")
    memory: Quantity = Field(default="4Gi", description="memory limit of a replica")
    epc: Quantity | None = Field(default=None, description="EPC of a replica; by default the enclave's size (SGX only)")
    epc_resource: str = Field(
        default="sgx.intel.com/epc", description="the name of the device plugin's resource for EPC"
    )
    enclave_resource: str = Field(
        default="sgx.intel.com/enclave",
        description="the device plugin's name for permission to run enclaves; empty if it has no such resource",
    )


class SchedulingTable(Section):
    """The nodes that may run replicas."""

    node_selector: dict[str, str] = Field(default={}, description="labels that a node must have")
    tolerations: tuple[str, ...] = Field(default=(), description="keys of the taints that replicas tolerate")


class AutoscalerTable(Section):
    """The HorizontalPodAutoscaler of the replicas."""

    max_replicas: Annotated[int, Field(ge=1, le=MOST_IN_CLUSTER)] | None = Field(
        default=None, description="the largest number of replicas; by default there is no autoscaler"
    )
    cpu_percent: Annotated[int, Field(ge=1, le=100)] = Field(
        default=70, description="target CPU utilization, in percent of the request"
    )
    latency_metric: str = Field(
        default="", description="a second metric of the pods to scale by; requires a Prometheus adapter"
    )
    latency_target: str = Field(default="100m", description="target of latency_metric, as a Kubernetes quantity")


class ImagesTable(Section):
    """How nodes pull images, and the inventory of the server's image."""

    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="when nodes pull images"
    )
    pull_secret: str = Field(default="", description="the Secret with the registry's credentials; empty: no Secret")
    inventory: FilePath | None = Field(
        default=None, description="the file that `sealserve enclave inventory` wrote for the server's image"
    )


class IngressTable(Section):
    """The ingress: accepts connections from outside the cluster and passes their TLS through to the replicas."""

    kind: IngressKind = Field(
        default=IngressKind.NGINX,
        description='"nginx" (new pods), "gateway-api", "f5", or "ingress-nginx" (retired: for existing clusters only)',
    )
    replicas: Annotated[int, Field(ge=1, le=20)] = Field(default=2, description="number of NGINX pods")
    gateway: str = Field(default="gateway", description="the Gateway of gateway-api: NAME or NAMESPACE/NAME")
    tls_route_version: str = Field(
        default="gateway.networking.k8s.io/v1",
        description="the API version of TLSRoute in the cluster; v1alpha2 before Gateway API 1.5",
    )
    controller_namespace: str = Field(default="ingress-nginx", description="namespace of an existing controller's pods")


class ServiceTable(Section):
    """The Service of NGINX, and the cloud's load balancer behind it."""

    type: Literal["LoadBalancer", "NodePort", "ClusterIP"] = Field(
        default="LoadBalancer", description="type of the Service: how clients outside the cluster reach NGINX"
    )
    node_port: Port | None = Field(default=None, description="the port for gRPC on every node")
    rest_node_port: Port | None = Field(default=None, description="the port for REST on every node")
    annotations: dict[str, str] = Field(
        default={}, description="annotations for the cloud's load balancer, in addition to the preset of target.cloud"
    )
    internal: bool = Field(
        default=False, description="whether only the cloud's internal network reaches the load balancer of target.cloud"
    )
    proxy_protocol: bool = Field(default=False, description="whether the load balancer sends the PROXY protocol")


class DnsTable(Section):
    """The cluster's DNS, for the NetworkPolicy."""

    namespace: KubernetesName = Field(default="kube-system", description="namespace of the DNS pods")
    labels: dict[LabelKey, LabelValue] = Field(
        default={"k8s-app": "kube-dns"}, description="labels of the DNS pods; OpenShift uses other labels"
    )
    port: Port = Field(default=53, description="port of the DNS pods; 5353 on OpenShift")
    addresses: Networks = Field(
        default=(), description='addresses of a DNS cache on each node, such as ["169.254.20.10"]'
    )

    @field_validator("labels")
    @classmethod
    def _pods_are_chosen(cls, labels: dict[str, str]) -> dict[str, str]:
        if not labels:
            raise ValueError(
                "expected at least one label: without labels, pods could reach every pod of kubernetes.dns.namespace"
            )
        return labels


class BrokerTable(Section):
    """How pods find the broker."""

    naming: BrokerNaming = Field(
        default=BrokerNaming.DNS,
        description='"dns" (DNS resolves broker.address, or it is an IP address), "coredns-hosts" or "external-name"',
    )
    ip: OptionalIpAddress = Field(
        default="",
        description="the broker's IP address; required by coredns-hosts. The NetworkPolicy allows only this address",
    )
    external_name: str = Field(default="", description="the DNS name that external-name points to")
    dangerous_inside: bool = Field(
        default=False,
        description="whether the broker runs in the cluster, so that its hosts hold the keys; simulated enclaves only",
    )
    database_addresses: Networks = Field(
        default=(),
        description="with dangerous_inside, networks of the database in `database.url`, for the NetworkPolicy; "
        "empty: a host that is not an IP address is allowed at every address",
    )
    keystore_addresses: Networks = Field(default=(), description="the same for `keystore.transit_url`")

    @model_validator(mode="after")
    def _broker_is_named(self) -> Self:
        if self.naming is BrokerNaming.COREDNS_HOSTS and not self.ip:
            raise ValueError("naming = 'coredns-hosts' requires kubernetes.broker.ip")
        if self.naming is BrokerNaming.EXTERNAL_NAME and not self.external_name:
            raise ValueError("naming = 'external-name' requires kubernetes.broker.external_name")
        return self


class MonitoringTable(Section):
    """Objects for the Prometheus operator and Grafana."""

    enabled: bool = Field(
        default=False,
        description="whether `up` creates alert rules, a dashboard and, with server.metrics_port, a PodMonitor",
    )
    namespace: KubernetesName = Field(
        default="monitoring", description="namespace of Prometheus; only its pods reach server.metrics_port"
    )
    scrape_secret: KubernetesName = Field(
        default="sealserve-scrape",
        description="the Secret that Prometheus uses for TLS: ca.crt and, for two-way TLS, tls.crt and tls.key",
    )


class KubernetesSection(Section):
    """The Kubernetes target."""

    namespace: KubernetesName = Field(default="sealserve", description="namespace of the deployment's objects")
    start_seconds: Annotated[int, Field(ge=10, le=7200)] = Field(
        default=900, description="maximum time in seconds for a replica to attest itself and load the model"
    )
    ip_families: tuple[Literal["IPv4", "IPv6"], ...] = Field(
        default=(),
        max_length=2,
        description='IP families of the Services, such as ["IPv6"] or ["IPv4", "IPv6"]; empty: the cluster\'s default',
    )
    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] | Literal["image", "platform"] = Field(
        default="image",
        description='user and group ID of the pods: "image" (65532), a number, or "platform": the cluster assigns it',
    )
    grpc_readiness: bool = Field(
        default=False,
        description="whether the kubelets check readiness with a gRPC call over TLS instead of a TCP connection; "
        "requires one-way TLS, and Kubernetes 1.37 with the feature gate GRPCContainerProbeTLS",
    )
    store: StoreTable = StoreTable()
    resources: ResourcesTable = ResourcesTable()
    scheduling: SchedulingTable = SchedulingTable()
    autoscaler: AutoscalerTable = AutoscalerTable()
    images: ImagesTable = ImagesTable()
    ingress: IngressTable = IngressTable()
    service: ServiceTable = ServiceTable()
    dns: DnsTable = DnsTable()
    broker: BrokerTable = BrokerTable()
    monitoring: MonitoringTable = MonitoringTable()

    @field_validator("ip_families")
    @classmethod
    def _families_differ(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(families)) < len(families):
            raise ValueError("expected each IP family at most once")
        return families
