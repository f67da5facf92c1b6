"""The section ``[kubernetes]`` of ``sealserve.toml``."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sealserve.deployment.section import Section
from sealserve.deployment.values import (
    KubernetesName,
    LabelKey,
    LabelValue,
    Networks,
    OptionalIpAddress,
    Port,
    Quantity,
)
from sealserve.terms import BrokerNaming, FrontKind


class KubernetesSection(Section):
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
