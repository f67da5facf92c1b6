"""Pods that run in the cluster from its start: its DNS, and the agent that enforces NetworkPolicies on each node.

Source: https://github.com/coredns/deployment/blob/master/kubernetes/coredns.yaml.sed (rights and Corefile),
https://github.com/kubernetes-sigs/kube-network-policies/blob/v0.8.0/install.yaml.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from testbed.kubernetes.layout import DNS_SERVICE, DOMAIN

DNS_IMAGE: Final = "localhost/sealserve-testbed/coredns:1"
POLICY_IMAGE: Final = "localhost/sealserve-testbed/kube-network-policies:1"
_NAMESPACE: Final = "kube-system"
_COREFILE: Final = f""".:53 {{
    errors
    health
    ready
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    cache 5
    reload 2s
}}
"""

Manifest = Mapping[str, Any]


def manifests() -> str:
    """Return all objects, as one JSON list."""
    items = [*_dns(), *_policies()]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _dns() -> Sequence[Manifest]:
    labels = {"k8s-app": "kube-dns"}
    probe = {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1}
    ports = [{"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    container = {
        "name": "coredns",
        "image": DNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": probe,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        },
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    names = ["endpoints", "services", "pods", "namespaces"]
    rules = [
        {"apiGroups": [""], "resources": names, "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    return [
        *_account("coredns", rules),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named("coredns"), "data": {"Corefile": _COREFILE}},
        _workload("Deployment", "coredns", labels, pod),
        {"apiVersion": "v1", "kind": "Service", "metadata": _named("kube-dns") | {"labels": labels},
         "spec": {"selector": labels, "clusterIP": DNS_SERVICE, "ports": ports}},
    ]  # fmt: skip


def _policies() -> Sequence[Manifest]:
    name = "kube-network-policies"
    container = {
        "name": name,
        "image": POLICY_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["--hostname-override=$(NODE)", "--disable-nri", "--v=2"],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}},
    }
    pod = {
        "serviceAccountName": name,
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
    }
    rules = [
        {"apiGroups": [""], "resources": ["pods", "namespaces", "nodes"], "verbs": ["list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
    ]
    return [*_account(name, rules), _workload("DaemonSet", name, {"app": name}, pod)]


def _account(name: str, rules: Sequence[Manifest]) -> Sequence[Manifest]:
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": _NAMESPACE}
    rbac = "rbac.authorization.k8s.io/v1"
    binding = {"roleRef": role, "subjects": [subject]}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named(name)},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
        {"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": name}, **binding},
    ]


def _workload(kind: str, name: str, labels: Mapping[str, str], pod: Manifest) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": _named(name),
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": _NAMESPACE}
