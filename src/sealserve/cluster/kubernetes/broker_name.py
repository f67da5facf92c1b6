"""The broker's name in a cluster's DNS: an entry of CoreDNS's ``hosts`` plugin, in a marked block.

Enclaves do not read /etc/hosts, so a pod's ``hostAliases`` have no effect: DNS is the only source of names for them.

Source: https://coredns.io/plugins/hosts/, https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/.
"""

import re
from typing import Final

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.cluster_client import ObjectName

COREFILE: Final = ObjectName("v1", "ConfigMap", "kube-system", "coredns")
"""The object with CoreDNS's configuration."""

_BEGIN: Final = "    # sealserve: begin\n"
_END: Final = "    # sealserve: end\n"
_BLOCK: Final = re.compile(rf"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
_SERVER: Final = re.compile(r"^\.:\d+[^\n]*\{\n", re.MULTILINE)


def add_entry(corefile: str, name: str, address: str) -> str:
    """Return CoreDNS's configuration with the broker's name. An earlier entry by sealserve is replaced.

    Raises:
        InputError: `kubernetes.corefile` if it already has a ``hosts`` block (only one is allowed), or has no server
            block for all names.
    """
    rest = remove_entry(corefile)
    if re.search(r"^\s*hosts\b", rest, re.MULTILINE):
        raise ClusterCode.KUBERNETES_COREFILE.error(
            "The broker's name cannot be added to CoreDNS's configuration: it already has a hosts block.",
            hint=f'Add `{address} {name}` to that block, and set kubernetes.broker.naming = "dns".',
        )
    found = _SERVER.search(rest)
    if found is None:
        raise ClusterCode.KUBERNETES_COREFILE.error(
            "The broker's name cannot be added to CoreDNS's configuration: it has no server block for all names "
            "(`.:53 {`).",
            hint=f'Make {name} resolve to {address} with your DNS, and set kubernetes.broker.naming = "dns".',
        )
    entry = f"    hosts {{\n        {address} {name}\n        fallthrough\n    }}\n"
    return f"{rest[: found.end()]}{_BEGIN}{entry}{_END}{rest[found.end() :]}"


def remove_entry(corefile: str) -> str:
    """Return CoreDNS's configuration without sealserve's entry."""
    return _BLOCK.sub("", corefile)


def is_named(corefile: str) -> bool:
    """Return whether CoreDNS's configuration has sealserve's entry."""
    return _BLOCK.search(corefile) is not None
