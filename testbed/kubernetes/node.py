"""A node's programs with their settings: containerd, kubelet and kube-proxy.

Source: https://github.com/containerd/containerd/blob/release/1.6/docs/cri/config.md,
https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/, .../kube-proxy-config.v1alpha1/,
https://www.cni.dev/docs/spec/ (version 1.0.0), https://www.cni.dev/plugins/current/main/bridge/.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli_w
from testbed.kubernetes.certificates import kubeconfig
from testbed.kubernetes.layout import (
    BUSYBOX_IMAGE,
    CERTIFICATES,
    CGROUP,
    DNS_SERVICE,
    DOMAIN,
    LOGS,
    POD_NETWORK,
    SOCKETS,
    Node,
)
from testbed.kubernetes.packages import NETWORK_PLUGINS

from sealserve.atomic_file import write_file


def configure(node: Node, feature_gates: Mapping[str, bool]) -> None:
    """Write a node's settings files."""
    for folder in (node.state / "cni", SOCKETS / node.name):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_file(node.state / "containerd.toml", tomli_w.dumps(_containerd(node)).encode())
    _write(node.state / "cni" / "10-testbed.conflist", _network(node))
    _write(node.state / "kubelet.json", _kubelet(node, feature_gates))
    _write(node.state / "kube-proxy.json", _kube_proxy(node))
    write_file(node.state / "resolv.conf", f"nameserver {DNS_SERVICE}\n".encode())


def containerd(node: Node) -> Sequence[str]:
    """Return the command line of containerd, in the node's network, where it creates the pods' networks."""
    return (*node.enter, "containerd", f"--config={node.state / 'containerd.toml'}")


def kubelet(node: Node, programs: Path) -> Sequence[str]:
    """Return the command line of the kubelet."""
    return (
        *node.enter,
        str(programs / "kubelet"),
        f"--config={node.state / 'kubelet.json'}",
        f"--kubeconfig={kubeconfig(node.name)}",
        f"--root-dir={node.state / 'kubelet'}",
        f"--cert-dir={node.state / 'pki'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    )


def kube_proxy(node: Node, programs: Path) -> Sequence[str]:
    """Return the command line of kube-proxy."""
    return (*node.enter, str(programs / "kube-proxy"), f"--config={node.state / 'kube-proxy.json'}")


def _containerd(node: Node) -> Mapping[str, object]:
    return {
        "version": 2,
        "root": str(node.state / "containerd"),
        "state": str(SOCKETS / node.name / "containerd"),
        "grpc": {"address": str(node.containerd)},
        "plugins": {
            "io.containerd.grpc.v1.cri": {
                "sandbox_image": BUSYBOX_IMAGE,  # its entry point only waits
                "restrict_oom_score_adj": True,  # otherwise runc fails without CAP_SYS_RESOURCE
                "netns_mounts_under_state_dir": True,
                "cni": {"bin_dir": str(NETWORK_PLUGINS), "conf_dir": str(node.state / "cni")},
            },
            "io.containerd.internal.v1.opt": {"path": str(node.state / "containerd-opt")},
        },
    }


def _network(node: Node) -> Mapping[str, object]:
    addresses = {
        "type": "host-local",
        "dataDir": str(node.state / "addresses"),
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "seal-pods",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": node.shares_network,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "testbed", "plugins": [bridge, ports]}


def _kubelet(node: Node, feature_gates: Mapping[str, bool]) -> Mapping[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "featureGates": dict(feature_gates),
        "address": node.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(CERTIFICATES / "cluster-ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(CERTIFICATES / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(CERTIFICATES / f"{node.name}.key"),
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": DOMAIN,
        "resolvConf": str(node.state / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{node.containerd}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}/{node.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,  # on some machines, the kubelet cannot find the root file system
        "podLogsDir": str(LOGS / f"{node.name}-pods"),
        "volumePluginDir": str(node.state / "volume-plugins"),
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "5s",  # a changed ConfigMap reaches its pod soon: CoreDNS reads a name from one
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,  # imported images could not be pulled again
    }


def _kube_proxy(node: Node) -> Mapping[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": str(kubeconfig("kube-proxy"))},
        # These kernel settings apply to the whole machine, or are not available in a network namespace.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _write(path: Path, settings: Mapping[str, object]) -> None:
    write_file(path, json.dumps(settings, indent=1).encode())
