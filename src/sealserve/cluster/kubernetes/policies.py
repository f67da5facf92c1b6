"""NetworkPolicies: they deny all traffic of the pods except the traffic that the service needs.

NGINX and Prometheus reach the replicas. The replicas reach the broker, the release store, the trace collector and DNS.
NetworkPolicies keep other pods out. They do not restrict nodes: the root user of a node can read and send any traffic
on the pods' networks. A policy cannot contain DNS names. For a broker, a store or a collector without a known IP
address, it allows that port at every address.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/.
"""

import contextlib
import ipaddress
from collections.abc import Sequence
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from sealserve.addresses import is_ip_address
from sealserve.cluster.kubernetes import front, inside_broker, replicas, sources
from sealserve.cluster.kubernetes.render_context import APPLICATION, Manifest, RenderContext
from sealserve.cluster.kubernetes.services_outside import Service, services_outside
from sealserve.terms import IngressKind

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_DNS_PORT: Final = 53
_WEB_PORTS: Final = {"https": 443, "http": 80}


def policies(context: RenderContext) -> Sequence[Manifest]:
    """Return the deployment's NetworkPolicies."""
    own = {"app.kubernetes.io/name": APPLICATION}
    objects = [_policy(context, "default-deny", own, ingress=[], egress=[])]
    inside = context.labels(replicas.PART)
    served = [_tcp(port) for port in replicas.service_ports(context).values()]
    if context.settings.ingress.kind is IngressKind.NGINX:
        outside = context.labels(front.PART)
        to_replicas = {"to": [{"podSelector": {"matchLabels": inside}}], "ports": served}
        objects.append(
            _policy(
                context,
                "front",
                outside,
                ingress=[{"ports": served}],
                egress=[to_replicas, _dns(context)],
            )
        )
        admitted: Manifest = {"podSelector": {"matchLabels": outside}}
    else:
        names = {"kubernetes.io/metadata.name": context.settings.ingress.controller_namespace}
        admitted = {"namespaceSelector": {"matchLabels": names}}
    ingress = [{"from": [admitted], "ports": served}]
    if context.settings.monitoring.enabled and context.deployment.server.metrics_port is not None:
        names = {"kubernetes.io/metadata.name": context.settings.monitoring.namespace}
        metrics = [_tcp(context.deployment.server.metrics_port)]
        ingress.append({"from": [{"namespaceSelector": {"matchLabels": names}}], "ports": metrics})
    egress: list[Manifest] = [_dns(context)]
    if context.settings.broker.dangerous_inside:
        broker, port = context.labels(inside_broker.PART), [_tcp(context.shipped.broker[1])]
        admitted_there = [{"from": [{"podSelector": {"matchLabels": inside}}], "ports": port}]
        objects.append(_policy(context, inside_broker.PART, broker, ingress=admitted_there, egress=_of_broker(context)))
        egress.append({"to": [{"podSelector": {"matchLabels": broker}}], "ports": port})
    else:
        egress.append(_to(context.settings.broker.ip or context.shipped.broker[0], context.shipped.broker[1]))
    if (collector := context.deployment.server.traces.collector) is not None:
        egress.append(_to(collector.host, collector.port))
    if (store := _store(context)) is not None:
        egress.append(_to(*store, networks=context.settings.store.addresses))
    objects.append(_policy(context, "replicas", inside, ingress=ingress, egress=egress))
    return objects


def _of_broker(context: RenderContext) -> list[Manifest]:
    """Return the rules for a broker in the cluster: its database and its key service on servers, and DNS for names."""
    services = services_outside(context.deployment)
    networks = {
        Service.DATABASE: context.settings.broker.database_addresses,
        Service.KEYSTORE: context.settings.broker.keystore_addresses,
    }
    rules = [_to(place.host, place.port, networks=networks[place.service]) for place in services]
    return [*rules, *([_dns(context)] if any(not is_ip_address(place.host) for place in services) else [])]


def _policy(
    context: RenderContext, name: str, pods: Manifest, *, ingress: Sequence[Manifest], egress: Sequence[Manifest]
) -> Manifest:
    spec = {
        "podSelector": {"matchLabels": dict(pods)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": list(ingress),
        "egress": list(egress),
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": context.metadata(name),
        "spec": spec,
    }


def _dns(context: RenderContext) -> Manifest:
    """Return the rule for DNS: the cluster's DNS pods, and the DNS cache on each node if it has one.

    A policy applies to the address and port of the pod behind a Service, not to the Service's own.
    """
    settings = context.settings
    pods = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.dns.namespace}},
        "podSelector": {"matchLabels": dict(settings.dns.labels)},
    }
    ports = {settings.dns.port, _DNS_PORT} if settings.dns.addresses else {settings.dns.port}
    return {
        "to": [pods, *_blocks(settings.dns.addresses)],
        "ports": [{"protocol": protocol, "port": port} for port in sorted(ports) for protocol in ("UDP", "TCP")],
    }


def _to(host: str, port: int, *, networks: Sequence[Network] = ()) -> Manifest:
    """Return the rule for one peer: its addresses if they are known, or else its port at any address.

    A NetworkPolicy has no DNS names, so a peer with a name and without addresses leaves its port open to all addresses.
    """
    rule: Manifest = {"ports": [_tcp(port)]}
    with contextlib.suppress(ValueError):
        networks = networks or [ipaddress.ip_network(host)]
    if networks:
        rule["to"] = _blocks(networks)
    return rule


def _blocks(networks: Sequence[Network]) -> list[Manifest]:
    return [{"ipBlock": {"cidr": str(network)}} for network in networks]


def _store(context: RenderContext) -> tuple[str, int] | None:
    address = urlsplit(sources.location(context))
    if address.scheme not in _WEB_PORTS or address.hostname is None:
        return None
    return address.hostname, address.port or _WEB_PORTS[address.scheme]


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
