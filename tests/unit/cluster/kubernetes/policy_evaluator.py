"""Evaluator of NetworkPolicies for tests: it decides which connections they allow, by the API's rules.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/ ("The two sorts of pod isolation").
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A pod, or (without labels) an address outside the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    address: str = "10.0.0.1"


def allows(policies: Sequence[Mapping[str, Any]], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Return whether the policies of both ends allow a connection."""
    leaves = _side(policies, "egress", "to", source, target, port, protocol)
    return leaves and _side(policies, "ingress", "from", target, source, port, protocol)


def _side(  # noqa: PLR0917
    policies: Sequence[Mapping[str, Any]], way: str, key: str, own: Peer, other: Peer, port: int, protocol: str
) -> bool:
    selected = [
        policy["spec"]
        for policy in policies
        if own.namespace == policy["metadata"]["namespace"]
        and _matches(policy["spec"]["podSelector"], own.labels)
        and way.capitalize() in policy["spec"]["policyTypes"]
    ]
    if not selected:
        return True
    namespace = own.namespace
    return any(
        _port(rule, port, protocol) and _peer(rule.get(key), other, namespace)
        for spec in selected
        for rule in spec.get(way, ())
    )


def _port(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return ports is None or any(item["port"] == port and item.get("protocol", "TCP") == protocol for item in ports)


def _peer(peers: Sequence[Mapping[str, Any]] | None, other: Peer, namespace: str) -> bool:
    return peers is None or any(_one(peer, other, namespace) for peer in peers)


def _one(peer: Mapping[str, Any], other: Peer, namespace: str) -> bool:
    if "ipBlock" in peer:
        return ipaddress.ip_address(other.address) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        in_namespace = _matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        in_namespace = other.namespace == namespace
    return in_namespace and _matches(peer.get("podSelector", {}), other.labels)


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert not set(selector) - {"matchLabels"}, "only matchLabels is used"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
