"""The networks of the testbed: a dedicated bridge, and a network namespace for each node.

The bridge's address represents this machine in the cluster's network. The API server listens there, and an owner's
broker can listen there. A client there is outside the cluster. Pods are reached through routes, without address
translation.

Source: ip-link(8), ip-netns(8), veth(4); https://kubernetes.io/docs/concepts/cluster-administration/networking/.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from testbed.kubernetes.layout import BRIDGE, CONTROL_PLANE, STATE, Node

_TRUST: Final = (
    "FORWARD",
    "-i",
    BRIDGE,
    "-o",
    BRIDGE,
    "-m",
    "comment",
    "--comment",
    "sealserve testbed",
    "-j",
    "ACCEPT",
)


_RULES: Final = STATE / "rules.json"
_TABLES: Final = ("filter", "nat", "mangle")
_MANGLE: Final = ("iptables", "-w", "-t", "mangle")
POLICY_QUEUE: Final = "100"  # the agent's default


class NetworkError(Exception):
    """The machine does not allow an operation that the testbed's network needs."""


def make_bridge() -> None:
    """Create the bridge."""
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        return
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{CONTROL_PLANE}/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    if not _succeeds("iptables", "-w", "-C", *_TRUST):  # Docker closes FORWARD, which also applies to bridged frames
        _run("iptables", "-w", "-I", *_TRUST)


def connect(node: Node) -> None:
    """Create a node's network namespace and connect it to the bridge.

    Raises:
        NetworkError: The kernel, or the container that this runs in, does not allow it.
    """
    if node.shares_network or Path(f"/run/netns/{node.namespace}").exists():
        return
    inside = ("ip", "-n", node.namespace)
    outer, inner = f"seal{node.number}", "eth0"
    _run("ip", "netns", "add", node.namespace)
    _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", node.namespace)
    _run("ip", "link", "set", outer, "master", BRIDGE, "up")
    _run(*inside, "address", "add", f"{node.address}/24", "dev", inner)
    for device in ("lo", inner):
        _run(*inside, "link", "set", device, "up")
    _run(*inside, "route", "add", "default", "via", CONTROL_PLANE)
    _run("ip", "route", "replace", node.pods, "via", node.address)
    enforce(node)


def enforce(node: Node) -> None:
    """Make a node forward its pods' traffic, and send each new connection to the policy agent.

    Raises:
        NetworkError: The kernel does not allow it.
    """
    # Pods of one node communicate over its bridge. Services are translated only if bridged frames pass iptables.
    for setting in ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"):
        _run(*node.enter, "sysctl", "-q", "-w", setting)
    # The agent that enforces NetworkPolicies would queue new connections with nftables, which some kernels lack
    # (CONFIG_NFT_QUEUE). So iptables queues them too. The agent decides equally on a connection that it gets twice.
    if not _succeeds(*node.enter, *_MANGLE, "-C", *_queue(node)):
        _run(*node.enter, *_MANGLE, "-A", *_queue(node))


def _queue(node: Node) -> Sequence[str]:
    """Return the rule that queues new connections. On a node that is this machine, only those to its pods."""
    to = ("-d", node.pods) if node.shares_network else ()
    return (
        "FORWARD", *to, "-m", "conntrack", "--ctstate", "NEW",
        "-j", "NFQUEUE", "--queue-num", POLICY_QUEUE, "--queue-bypass",
    )  # fmt: skip


def remember_rules() -> None:
    """Record this machine's firewall rules, once, before a node shares its network."""
    if not _RULES.exists():
        _RULES.write_text(json.dumps(rules()))


def forget_rules() -> None:
    """Remove the rules and chains that the kubelet, kube-proxy and the pods' bridge added on this machine."""
    if not _RULES.exists():
        return
    before = json.loads(_RULES.read_text())
    for table, found in rules().items():
        added = [rule for rule in found if rule not in before[table] and re.search(r"\b(KUBE|CNI)-", rule)]
        for rule in added:
            if rule.startswith("-A "):
                _succeeds("iptables", "-w", "-t", table, *shlex.split(f"-D {rule[3:]}"))
        for rule in added:
            if rule.startswith("-N "):
                _succeeds("iptables", "-w", "-t", table, "-X", rule[3:])


def rules() -> Mapping[str, Sequence[str]]:
    """Return this machine's firewall rules and chains, by table."""
    return {
        table: subprocess.run(
            ["iptables", "-w", "-t", table, "-S"], capture_output=True, text=True, check=False
        ).stdout.splitlines()
        for table in _TABLES
    }  # fmt: skip


def introduce(nodes: Sequence[Node]) -> None:
    """Add routes from each node to the other nodes' pods."""
    for node in nodes:
        for other in nodes:
            if node != other and not node.shares_network:
                _run("ip", "-n", node.namespace, "route", "replace", other.pods, "via", other.address)


def remove(nodes: Sequence[Node]) -> None:
    """Remove the namespaces and the bridge. Missing ones are not an error."""
    for node in nodes:
        if Path(f"/run/netns/{node.namespace}").exists():
            _succeeds("ip", "netns", "delete", node.namespace)
        _succeeds("ip", "link", "delete", f"seal{node.number}")
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        _succeeds("ip", "link", "delete", BRIDGE)
    while _succeeds("iptables", "-w", "-D", *_TRUST):
        pass
    while _succeeds(*_MANGLE, "-D", *_queue(Node(1, shares_network=True))):
        pass


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise NetworkError(f"`{' '.join(command)}` failed: {result.stderr.strip()}")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
