"""Paths of the testbed's files, and the addresses of its networks.

All files are in two dedicated folders with the testbed's name. So the testbed does not conflict with another
Kubernetes, Docker or containerd, and `down` finds all of its files, independently of who created them.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STATE: Final = Path(
    "/var/lib/sealserve-testbed"
)  # short, because it contains the kubelet's sockets, and a socket's path has at most 107 bytes
SOCKETS: Final = Path("/run/sealserve-testbed")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealserve" / "testbed"
LOGS: Final = STATE / "logs"
CERTIFICATES: Final = STATE / "certificates"
KUBECONFIG: Final = STATE / "admin.kubeconfig"
IMAGES: Final = STATE / "images"

BRIDGE: Final = "sealserve-k8s"
CONTROL_PLANE: Final = "10.199.0.1"  # the bridge's address: the API server, and this machine from the cluster's view
NODE_NETWORK: Final = "10.199.0.0/24"
POD_NETWORK: Final = "10.200.0.0/16"
SERVICE_NETWORK: Final = "10.201.0.0/16"
API_SERVICE: Final = "10.201.0.1"  # the first address of the service network
DNS_SERVICE: Final = "10.201.0.10"
DOMAIN: Final = "cluster.local"
API_PORT: Final = 6443
CGROUP: Final = "sealserve-testbed"

FEATURE_GATES: Final = {"GRPCContainerProbeTLS": True}
"""The feature gates of the API server and the kubelets that are not the defaults of the version."""

BUSYBOX_IMAGE: Final = "localhost/sealserve-testbed/busybox:1"


@dataclass(frozen=True, slots=True)
class Node:
    """A node: a kubelet, a containerd and a kube-proxy.

    Args:
        number: Its number, starting at 1.
        shares_network: Whether it uses this machine's network instead of a network namespace.
    """

    number: int
    shares_network: bool = False

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        return f"node-{self.number}"

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return f"sealserve-{self.name}"

    @property
    def address(self) -> str:
        """Its address on the bridge."""
        return CONTROL_PLANE if self.shares_network else f"10.199.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The network of its pods."""
        return f"10.200.{self.number}.0/24"

    @property
    def state(self) -> Path:
        """Its folder."""
        return STATE / self.name

    @property
    def containerd(self) -> Path:
        """The socket of its containerd."""
        return SOCKETS / self.name / "containerd.sock"

    @property
    def enter(self) -> tuple[str, ...]:
        """Prefix of a command that runs in its network."""
        return () if self.shares_network else ("nsenter", f"--net=/run/netns/{self.namespace}")
