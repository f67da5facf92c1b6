"""If network namespaces are not allowed, the testbed has one node, reports this, and still leaves nothing behind.

The cluster of this module has no feature gates.

This module runs last, because it stops the cluster of the other tests.
"""

import shutil
from pathlib import Path

import pytest
from testbed.kubernetes import layout
from testbed.kubernetes.cluster import Cluster
from testbed.kubernetes.network import rules
from tests.harness.container_images import Images
from tests.harness.errors import raises
from tests.harness.workspaces import Site
from tests.kubernetes.conftest import Kubectl
from tests.kubernetes.service import make_deployment

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes import shipping
from sealserve.cluster.kubernetes.cluster_client import ClusterClient
from sealserve.cluster.kubernetes.preconditions import check_readiness

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

GATE = "GRPCContainerProbeTLS"
REFUSED = "mount --make-shared /run/netns failed: Operation not permitted"


@pytest.fixture
def site(kubectl: Kubectl, images: Images, tmp_path: Path) -> Site:
    """A deployment whose replicas are probed by gRPC."""
    assert kubectl.kubeconfig
    return make_deployment(tmp_path / "site", images, grpc_readiness=True)


def test_one_node_shares_the_machines_network(
    testbed: Cluster | None, found_running: bool, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    cluster = Cluster(say=said.append, feature_gates={})
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
        # This cluster has no feature gates, so it shows how `up` reports that gRPC probes lack TLS.
        with raises(
            ClusterCode.KUBERNETES_GRPC_READINESS,
            match=rf"API server drops readinessProbe\.grpc\.mode, because its feature gate {GATE} is off; "
            rf"the feature gate {GATE} is off in the kubelet of node-1\.",
        ):
            check_readiness(shipping.provisional_context(site.deployment), ClusterClient())
    finally:
        cluster.down()
    assert rules() == before
