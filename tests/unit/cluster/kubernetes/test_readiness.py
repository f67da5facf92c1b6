"""Readiness by gRPC over TLS: the probe, and clusters that lack it. `make test-kubernetes` uses a real cluster."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import make_site
from tests.unit.cluster.kubernetes.conftest import ONE_WAY, make_context, node
from tests.unit.cluster.kubernetes.test_preconditions import FakeCluster, examine

from sealserve import deployment
from sealserve.bundle import Bundle, EnclaveFacts, read_bundle
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.container_layout import ENCLAVE
from sealserve.cluster.kubernetes.cluster_client import ObjectName
from sealserve.cluster.kubernetes.objects import objects
from sealserve.cluster.kubernetes.preconditions import check_readiness
from sealserve.cluster.kubernetes.render_context import Manifest, NotRenderableError, RenderContext
from sealserve.cluster.kubernetes.target import KubernetesTarget
from sealserve.deployment.codes import DeploymentCode
from sealserve.doctor.finding import Verdict
from sealserve.tcp_ports import SERVICE_PORT

GATE = "GRPCContainerProbeTLS"
ON = {GATE: True}


@pytest.fixture
def context() -> RenderContext:
    return make_context("grpc_readiness = true\n", toml=ONE_WAY)


@pytest.fixture
def cluster() -> FakeCluster:
    """A cluster of two nodes with the feature gate on everywhere."""
    made = FakeCluster()
    made.version = "v1.37.2"
    made.found["Node"] = [node(name, kubelet="v1.37.2") for name in "ab"]
    made.gates = {"a": ON, "b": ON}
    return made


def replicas(context: RenderContext) -> Manifest:
    """Return the Deployment of the replicas."""
    (found,) = [
        item
        for item in objects(context)
        if (item["kind"], item["metadata"]["name"]) == ("Deployment", "sealserve-replicas")
    ]
    return found


def container(context: RenderContext) -> Manifest:
    made: Manifest = replicas(context)["spec"]["template"]["spec"]["containers"][0]
    return made


def refused(context: RenderContext, cluster: FakeCluster) -> str:
    """Return the reason with which `up` and `doctor` reject a cluster. Nothing is created in it."""
    with raises(
        ClusterCode.KUBERNETES_GRPC_READINESS, match=r"does not support kubernetes\.grpc_readiness: "
    ) as caught:
        check_readiness(context, cluster)  # type: ignore[arg-type]  # it has the methods that are used
    assert cluster.applied == []
    assert caught.value.hint is not None
    found = examine(context, cluster)["grpc-readiness"]
    assert found.verdict is Verdict.MISSING
    assert found.found.rstrip(".") in caught.value.message
    return f"{caught.value.message} {caught.value.hint}"


def test_readiness_is_a_connection_by_default() -> None:
    for context in (make_context(), make_context(toml=ONE_WAY)):
        assert container(context)["readinessProbe"] == {
            "tcpSocket": {"port": 8500}, "periodSeconds": 2, "failureThreshold": 1, "timeoutSeconds": 2,
        }  # fmt: skip


def test_readiness_is_a_call_over_tls_and_liveness_stays_a_connection(context: RenderContext) -> None:
    """A replica that is too busy to answer gets no new connections, but it is not restarted."""
    made = container(context)
    assert made["readinessProbe"]["grpc"] == {"port": 8500, "mode": "TLS"}
    assert made["readinessProbe"]["failureThreshold"] > 1
    assert made["startupProbe"]["tcpSocket"] == made["livenessProbe"]["tcpSocket"] == {"port": 8500}


def test_the_probe_fits_the_schema_of_the_first_version_that_has_it(context: RenderContext) -> None:
    for item in objects(context):
        kubernetes_validate.validate(item, "1.37.0", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError, match="'mode' was unexpected"):
        kubernetes_validate.validate(replicas(context), "1.36.0", strict=True)


def test_two_way_tls_is_refused_in_the_file() -> None:
    text = 'model.name = "m"\nkubernetes.grpc_readiness = true\n'
    with raises(DeploymentCode.INVALID_VALUE, match=r'grpc_readiness: requires service\.tls = "one-way"'):
        deployment.parse(text)
    assert deployment.parse(f'service.tls = "one-way"\n{text}').kubernetes.grpc_readiness


def test_a_release_for_two_way_tls_is_refused(context: RenderContext, cluster: FakeCluster) -> None:
    """`up --rollback` may serve a release from before the change to one-way TLS."""
    rolled_back = replace(context, shipped=replace(context.shipped, client_certificates=True))
    with pytest.raises(NotRenderableError, match="does not support two-way TLS") as caught:
        objects(rolled_back)
    assert caught.value.hint is not None
    assert "grpc_readiness = false" in caught.value.hint
    assert "two-way" in examine(rolled_back, cluster)["grpc-readiness"].found
    objects(replace(make_context(), shipped=rolled_back.shipped))


@pytest.mark.parametrize(("tls", "expected"), [("two-way", True), ("one-way", False)])
def test_a_release_shows_whether_users_need_a_certificate(tmp_path: Path, tls: str, *, expected: bool) -> None:
    site = make_site(tmp_path, service={"tls": tls})
    site.import_model()
    site.certify()
    assert read_bundle(site.build_release().folder, []).client_certificates is expected


def test_a_cluster_with_the_feature(context: RenderContext, cluster: FakeCluster) -> None:
    check_readiness(context, cluster)  # type: ignore[arg-type]  # it has the methods that are used
    assert cluster.applied == []
    assert examine(context, cluster)["grpc-readiness"].verdict is Verdict.OK


def test_up_creates_nothing_in_a_cluster_without_the_feature(tmp_path: Path, cluster: FakeCluster) -> None:
    store = {"source": "https://store.example.com/{release}.tar"}
    site = make_site(tmp_path, service={"tls": "one-way"}, kubernetes={"grpc_readiness": True, "store": store})
    site.workspace.host.owner_key.write_text("-----BEGIN PUBLIC KEY-----\n")
    enclave = EnclaveFacts(name=ENCLAVE, port=SERVICE_PORT, broker=("broker", 4433), memory=2**30, manifest="0" * 64)
    target = KubernetesTarget(site.workspace, site.deployment)
    target._open = cluster  # type: ignore[assignment]  # it has the methods that are used
    cluster.version = "v1.34.4"
    with raises(ClusterCode.KUBERNETES_GRPC_READINESS, match=r"expected Kubernetes v1\.37 or later, got v1\.34\.4\."):
        target.up(Bundle(folder=tmp_path / "m-0123456789ab", size=1, enclaves=(enclave,)), 1)
    assert cluster.applied == []
    assert target.status() == []


def test_nothing_is_checked_without_the_setting(cluster: FakeCluster) -> None:
    cluster.version = "v1.34.4"
    check_readiness(make_context(), cluster)  # type: ignore[arg-type]  # it has the methods that are used
    assert "grpc-readiness" not in examine(make_context(), cluster)


@pytest.mark.parametrize("version", ["v1.34.4", "v1.36.9-gke.1", "v0.99.0", "", "1.37.2", "v1.٣٧.0"])
def test_an_old_api_server(context: RenderContext, cluster: FakeCluster, version: str) -> None:
    cluster.version = version
    assert "expected Kubernetes v1.37 or later, got " in refused(context, cluster)


def test_an_api_server_that_drops_the_field(context: RenderContext, cluster: FakeCluster) -> None:
    cluster.drops_mode = True
    reason = refused(context, cluster)
    assert "the API server drops readinessProbe.grpc.mode" in reason
    assert GATE in reason
    assert "set kubernetes.grpc_readiness = false" in reason


@pytest.mark.parametrize("answer", [{}, {"spec": None}, {"spec": {"containers": []}}, {"spec": {"containers": [7]}}])
def test_an_incomplete_answer_counts_as_dropped(
    context: RenderContext, cluster: FakeCluster, answer: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "apply", lambda _made, *, dry_run: answer if dry_run else pytest.fail("created"))
    with raises(ClusterCode.KUBERNETES_GRPC_READINESS, match="drops"):
        check_readiness(context, cluster)  # type: ignore[arg-type]


def test_the_dry_run_is_in_a_namespace_that_exists(
    context: RenderContext, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def apply(made: Manifest, *, dry_run: bool) -> Manifest:
        assert dry_run
        tried.append(made["metadata"]["namespace"])
        return made

    monkeypatch.setattr(cluster, "apply", apply)
    check_readiness(context, cluster)  # type: ignore[arg-type]
    cluster.objects[ObjectName("v1", "Namespace", "", "sealserve")] = {}
    check_readiness(context, cluster)  # type: ignore[arg-type]
    assert tried == ["default", "sealserve"]


def test_an_old_kubelet(context: RenderContext, cluster: FakeCluster) -> None:
    cluster.found["Node"] = [node("a", kubelet="v1.37.2"), node("b", kubelet="v1.36.1"), node("c")]
    assert "got an older version on b (v1.36.1), c ()" in refused(context, cluster)


def test_a_node_that_no_replica_may_use_is_not_checked(context: RenderContext, cluster: FakeCluster) -> None:
    cluster.found["Node"] = [node("a", kubelet="v1.37.2"), node("b", kubelet="v1.30.0", taint="other")]
    check_readiness(context, cluster)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gates", "version", "off"),
    [
        (ON, "v1.37.2", False), ({GATE: False}, "v1.37.2", True), ({}, "v1.37.2", True),
        ({"AllAlpha": True}, "v1.37.2", False), ({"AllAlpha": True, GATE: False}, "v1.37.2", True),
        ({}, "v1.38.0", False), ({GATE: False}, "v1.38.0", True),  # a later version may have another default
        (None, "v1.37.2", False),  # it does not answer
    ],
)  # fmt: skip
def test_a_kubelets_gate(
    context: RenderContext, cluster: FakeCluster, gates: Mapping[str, bool] | None, version: str, *, off: bool
) -> None:
    cluster.found["Node"] = [node("a", kubelet="v1.37.2"), node("b", kubelet=version)]
    cluster.gates["b"] = gates
    if off:
        assert f"the feature gate {GATE} is off in the kubelet of b." in refused(context, cluster)
    else:
        check_readiness(context, cluster)  # type: ignore[arg-type]


def test_kubelets_are_not_asked_without_the_permission(context: RenderContext, cluster: FakeCluster) -> None:
    cluster.gates = {}  # asking fails this test
    cluster.denied = lambda verb, kind, _namespace: (verb, kind) == ("get", "Node")
    check_readiness(context, cluster)  # type: ignore[arg-type]


def test_rights_that_are_missing_are_named(context: RenderContext, cluster: FakeCluster) -> None:
    cluster.refused = {"Node"}
    assert "listing Node: refused" in refused(context, cluster)
