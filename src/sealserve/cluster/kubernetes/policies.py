"""NetworkPolicies: nobody reaches anything, but the front and Prometheus the replicas, and these the broker and DNS.

They bind pods, not the host: its root reads and sends what it likes on the pods' networks. They keep other pods out.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/.
"""

import contextlib
import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from sealserve.cluster.kubernetes import front, inside_broker, replicas, sources
from sealserve.cluster.kubernetes.plan import APPLICATION, FRONT_PORT, SERVER_PORT, Manifest, Plan
from sealserve.deployment import FrontKind

_DNS: Final = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}
_WEB_PORTS: Final = {"https": 443, "http": 80}


def policies(plan: Plan) -> Sequence[Manifest]:
    """Return the deployment's NetworkPolicies."""
    own = {"app.kubernetes.io/name": APPLICATION}
    objects = [_policy(plan, "default-deny", own, ingress=[], egress=[])]
    inside = plan.labels(replicas.PART)
    if plan.settings.front is FrontKind.NGINX:
        outside = plan.labels(front.PART)
        to_replicas = {"to": [{"podSelector": {"matchLabels": inside}}], "ports": [_tcp(SERVER_PORT)]}
        objects.append(
            _policy(plan, "front", outside, ingress=[{"ports": [_tcp(FRONT_PORT)]}], egress=[to_replicas, _DNS])
        )
        admitted: Manifest = {"podSelector": {"matchLabels": outside}}
    else:
        names = {"kubernetes.io/metadata.name": plan.settings.controller_namespace}
        admitted = {"namespaceSelector": {"matchLabels": names}}
    ingress = [{"from": [admitted], "ports": [_tcp(SERVER_PORT)]}]
    if plan.settings.monitoring and plan.deployment.server.metrics_port is not None:
        names = {"kubernetes.io/metadata.name": plan.settings.monitoring_namespace}
        metrics = [_tcp(plan.deployment.server.metrics_port)]
        ingress.append({"from": [{"namespaceSelector": {"matchLabels": names}}], "ports": metrics})
    egress: list[Manifest] = [_DNS]
    if plan.settings.dangerous_broker_inside:
        broker, port = plan.labels(inside_broker.PART), [_tcp(plan.shipped.broker[1])]
        admitted_there = [{"from": [{"podSelector": {"matchLabels": inside}}], "ports": port}]
        objects.append(_policy(plan, inside_broker.PART, broker, ingress=admitted_there, egress=[]))
        egress.append({"to": [{"podSelector": {"matchLabels": broker}}], "ports": port})
    else:
        egress.append(_to(plan.settings.broker_ip or plan.shipped.broker[0], plan.shipped.broker[1]))
    if (store := _store(plan)) is not None:
        egress.append(_to(*store))
    objects.append(_policy(plan, "replicas", inside, ingress=ingress, egress=egress))
    return objects


def _policy(
    plan: Plan, name: str, pods: Manifest, *, ingress: Sequence[Manifest], egress: Sequence[Manifest]
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
        "metadata": plan.metadata(name),
        "spec": spec,
    }


def _to(host: str, port: int) -> Manifest:
    """Return the rule for one peer: its address where it is known, else its port alone (a policy knows no names)."""
    rule: Manifest = {"ports": [_tcp(port)]}
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        rule["to"] = [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}]
    return rule


def _store(plan: Plan) -> tuple[str, int] | None:
    address = urlsplit(sources.location(plan))
    if address.scheme not in _WEB_PORTS or address.hostname is None:
        return None
    return address.hostname, address.port or _WEB_PORTS[address.scheme]


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
