"""Whether a cluster supports readiness probes that call gRPC over TLS (``kubernetes.grpc_readiness``).

A kubelet without the feature gate sends plaintext to the TLS port, so a replica on its node never becomes ready.

Source: https://kep.k8s.io/4939; kubernetes v1.37.2, ``pkg/kubelet/prober/prober.go`` and ``pkg/api/pod/util.go``
(``dropDisabledGRPCContainerProbeTLS``).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from sealserve.cluster.kubernetes.capacity import may_run
from sealserve.cluster.kubernetes.cluster_client import ClusterClient, ObjectName
from sealserve.cluster.kubernetes.objects import namespace
from sealserve.cluster.kubernetes.render_context import (
    APPLICATION,
    Manifest,
    RenderContext,
    container_security,
)
from sealserve.cluster.kubernetes.replicas import TLS_MODE, readiness_probe

FEATURE_GATE: Final = "GRPCContainerProbeTLS"
_ALL_ALPHA: Final = "AllAlpha"  # turns on every alpha feature that the gates do not name
_FIRST: Final = (1, 37)  # the first version of Kubernetes with the feature, off by default
_VERSION: Final = re.compile(r"v(\d{1,4})\.(\d{1,4})\b", re.ASCII)


def unsupported(context: RenderContext, client: ClusterClient) -> Iterator[str]:
    """Yield why the cluster does not support the readiness probe. Nothing is created in the cluster.

    The settings of a kubelet are readable only with the permission for ``nodes/proxy``. Without it, only the kubelet's
    version is checked.

    Raises:
        ClusterRefusedError: The nodes may not be listed, or no pod may be created.
        NotRenderableError: The release requires client certificates.
    """
    # 1. The API server. It drops the field from new objects if the gate is off, and does not report this.
    version, _ = client.version_and_time()
    if _version(version) < _FIRST:
        yield f"expected Kubernetes v1.37 or later, got {version}"
        return
    if not _is_kept(context, client):
        yield f"the API server drops readinessProbe.grpc.mode, because its feature gate {FEATURE_GATE} is off"
    # 2. The kubelets of the nodes that may run replicas.
    nodes = [node for node in client.find("v1", "Node", "", "") if may_run(node, context.settings)]
    old = [f"{_name(node)} ({_kubelet(node)})" for node in nodes if _version(_kubelet(node)) < _FIRST]
    if old:
        yield f"expected kubelet v1.37 or later, got an older version on {', '.join(old)}"
    if client.may("get", "v1", "Node", subresource="proxy") is None:
        off = [_name(node) for node in nodes if _version(_kubelet(node)) >= _FIRST and _is_off(node, client)]
        if off:
            yield f"the feature gate {FEATURE_GATE} is off in the kubelet of {', '.join(off)}"


def _is_kept(context: RenderContext, client: ClusterClient) -> bool:
    """Return whether the API server keeps the probe of a new pod.

    The dry run uses a pod with a new name: the API server keeps the field in an object that already has it, even if
    the gate is off now.
    """
    space = context.settings.namespace
    if client.get(ObjectName.of(namespace(context))) is None:
        space = "default"  # as for the pod of `doctor`: a namespace that does not exist accepts no dry run
    made = client.apply(_pod(context, space), dry_run=True)
    try:
        return bool(made["spec"]["containers"][0]["readinessProbe"]["grpc"]["mode"] == TLS_MODE)
    except (KeyError, IndexError, TypeError):  # the field, or more of the object, is missing
        return False


def _pod(context: RenderContext, space: str) -> Manifest:
    name = f"{APPLICATION}-readiness"
    container = {
        "name": "server",
        "image": context.server_image,
        "readinessProbe": readiness_probe(context),
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
        "securityContext": container_security(),
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": context.pod_security(),
        "containers": [container],
    }
    metadata = {"name": name, "namespace": space, "labels": {"app.kubernetes.io/name": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _is_off(node: Manifest, client: ClusterClient) -> bool:
    """Return whether a kubelet reports that the gate is off. False if it does not answer."""
    gates = client.kubelet_feature_gates(_name(node))
    if gates is None:
        return False
    later = _version(_kubelet(node)) > _FIRST  # the default of later versions is not known
    return not gates.get(FEATURE_GATE, gates.get(_ALL_ALPHA, later))


def _name(node: Manifest) -> str:
    return str(node["metadata"]["name"])


def _kubelet(node: Manifest) -> str:
    """Return the version of a node's kubelet, such as ``v1.37.2``."""
    info: Mapping[str, object] = node.get("status", {}).get("nodeInfo") or {}
    return str(info.get("kubeletVersion", "unknown"))[:40]


def _version(text: str) -> tuple[int, int]:
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
