"""If network namespaces are not allowed, the testbed has one node, reports this, and still leaves nothing behind.

This module runs last, because it stops the cluster of the other tests.
"""

import shutil
from pathlib import Path

import pytest
from testbed.kubernetes import layout
from testbed.kubernetes.cluster import Cluster
from testbed.kubernetes.network import rules

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

REFUSED = "mount --make-shared /run/netns failed: Operation not permitted"


def test_one_node_shares_the_machines_network(
    testbed: Cluster | None, found_running: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if testbed is None or found_running:
        pytest.skip("this stops the testbed's own cluster, if it was started for the tests")
    testbed.down()
    before = rules()
    program = tmp_path / "ip"
    program.write_text(f"""#!/bin/sh
[ "$1 $2" = "netns add" ] && {{ echo "{REFUSED}" >&2; exit 255; }}
exec {shutil.which("ip")} "$@"
""")
    program.chmod(0o755)
    said: list[str] = []
    cluster = Cluster(say=said.append)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=":")
        cluster.up()
    try:
        assert any(
            line.startswith("starting only one node, in this machine's own network: ") and REFUSED in line
            for line in said
        )
        assert [node.address for node in cluster.nodes()] == [layout.CONTROL_PLANE]
        assert any("NFQUEUE" in rule for rule in rules()["mangle"])
    finally:
        cluster.down()
    assert rules() == before
