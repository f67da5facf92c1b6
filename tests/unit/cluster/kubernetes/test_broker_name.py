from tests.harness.errors import raises

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.broker_name import add_entry, remove_entry

COREFILE = """.:53 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
    forward . /etc/resolv.conf
}
"""


def test_the_name_is_added_once_and_removed_without_a_trace() -> None:
    named = add_entry(COREFILE, "broker.example.com", "192.0.2.1")
    assert "        192.0.2.1 broker.example.com\n        fallthrough\n" in named
    assert named.index("hosts {") < named.index("kubernetes cluster.local")
    moved = add_entry(named, "broker.example.com", "192.0.2.2")
    assert "192.0.2.1" not in moved
    assert remove_entry(moved) == COREFILE
    assert remove_entry(COREFILE) == COREFILE


def test_another_hosts_block_is_left_alone() -> None:
    taken = COREFILE.replace("    errors\n", "    hosts {\n        192.0.2.9 a.example.com\n    }\n")
    with raises(ClusterCode.KUBERNETES_COREFILE, match="it already has a hosts block") as caught:
        add_entry(taken, "broker.example.com", "192.0.2.1")
    assert caught.value.code == "kubernetes.corefile"
    assert "Add `192.0.2.1 broker.example.com` to that block" in str(caught.value)


def test_a_corefile_without_a_block_for_all_names_is_refused() -> None:
    with raises(ClusterCode.KUBERNETES_COREFILE, match="no server block"):
        add_entry("example.com:53 {\n}\n", "broker.example.com", "192.0.2.1")
