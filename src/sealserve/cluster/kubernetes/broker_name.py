"""The broker's name in a cluster's DNS: an entry of CoreDNS's ``hosts`` plugin, written and removed as a marked block.

Enclaves see no /etc/hosts, and so none of a pod's ``hostAliases``: DNS is the only source of names inside.

Source: https://coredns.io/plugins/hosts/, https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/.
"""

import re
from typing import Final

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.cluster_client import ObjectName

COREFILE: Final = ObjectName("v1", "ConfigMap", "kube-system", "coredns")
"""Where CoreDNS's configuration is."""

_BEGIN: Final = "    # sealserve: begin\n"
_END: Final = "    # sealserve: end\n"
_BLOCK: Final = re.compile(rf"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
_SERVER: Final = re.compile(r"^\.:\d+[^\n]*\{\n", re.MULTILINE)


def add_entry(corefile: str, name: str, address: str) -> str:
    """Return CoreDNS's configuration with the broker's name; an entry of ours is replaced.

    Raises:
        InputError: `kubernetes.corefile`: It has another ``hosts`` block (there can be one), or no server block for all
            names.
    """
    rest = remove_entry(corefile)
    if re.search(r"^\s*hosts\b", rest, re.MULTILINE):
        raise ClusterCode.KUBERNETES_COREFILE.error(
            "CoreDNS's configuration has a hosts block of its own.",
            hint=f'Add `{address} {name}` to it, and set kubernetes.broker.naming = "dns".',
        )
    found = _SERVER.search(rest)
    if found is None:
        raise ClusterCode.KUBERNETES_COREFILE.error(
            "CoreDNS's configuration has no server block for all names (`.:53 {`).",
            hint=f'Let {name} resolve to {address} in another way, and set kubernetes.broker.naming = "dns".',
        )
    entry = f"    hosts {{\n        {address} {name}\n        fallthrough\n    }}\n"
    return f"{rest[: found.end()]}{_BEGIN}{entry}{_END}{rest[found.end() :]}"


def remove_entry(corefile: str) -> str:
    """Return CoreDNS's configuration without our entry."""
    return _BLOCK.sub("", corefile)


def is_named(corefile: str) -> bool:
    """Return whether CoreDNS's configuration has our entry."""
    return _BLOCK.search(corefile) is not None
