"""Where the testbed keeps its things, and the addresses of its networks.

Everything lies in two folders of its own and bears the testbed's name, so that it stands beside another Kubernetes,
Docker or containerd, and so that `down` finds all of it, whoever made it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STATE: Final = Path(
    "/var/lib/sealserve-testbed"
)  # short: the kubelet's sockets lie in it, and a path of one has 107 bytes
SOCKETS: Final = Path("/run/sealserve-testbed")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealserve" / "testbed"
LOGS: Final = STATE / "logs"
CERTIFICATES: Final = STATE / "certificates"
KUBECONFIG: Final = STATE / "admin.kubeconfig"
IMAGES: Final = STATE / "images"

BRIDGE: Final = "sealserve-k8s"
CONTROL_PLANE: Final = "10.199.0.1"  # the bridge's address: the API server, and this machine as the cluster sees it
NODE_NETWORK: Final = "10.199.0.0/24"
POD_NETWORK: Final = "10.200.0.0/16"
SERVICE_NETWORK: Final = "10.201.0.0/16"
API_SERVICE: Final = "10.201.0.1"  # the first address of the services
DNS_SERVICE: Final = "10.201.0.10"
DOMAIN: Final = "cluster.local"
API_PORT: Final = 6443
CGROUP: Final = "sealserve-testbed"

BUSYBOX_IMAGE: Final = "localhost/sealserve-testbed/busybox:1"


@dataclass(frozen=True, slots=True)
class Node:
    """A node: a kubelet, a containerd and a kube-proxy.

    Args:
        number: From 1.
        shares_network: Whether it has no network namespace of its own, but this machine's.
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
        """What stands before a command that runs in its network."""
        return () if self.shares_network else ("nsenter", f"--net=/run/netns/{self.namespace}")
