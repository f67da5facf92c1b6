"""Findings about clusters with unusual answers. `make test-kubernetes` examines a real cluster."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import pytest
from tests.harness.errors import raises
from tests.unit.cluster.kubernetes.conftest import TOML, make_context, node

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes import reach_probe
from sealserve.cluster.kubernetes.cluster_client import (
    ClusterRefusedError,
    ClusterUnreachableError,
    KindUnknownError,
    ObjectName,
)
from sealserve.cluster.kubernetes.preconditions import check_rights, examine_cluster
from sealserve.cluster.kubernetes.reach_probe import ProbeError, read
from sealserve.cluster.kubernetes.render_context import Manifest, NotRenderableError, RenderContext
from sealserve.doctor.finding import Finding, Verdict

NOW = datetime.now(UTC)
CLAIMED = TOML.replace("https://store.example.com:8443/{release}.tar", "claim:releases")
ANSWER = {"addresses": ["192.0.2.44"], "answers": True, "error": ""}


class FakeCluster:
    """A cluster whose answers a test defines."""

    address = "https://192.0.2.1:6443"

    def __init__(self) -> None:
        self.objects: dict[ObjectName, Manifest] = {}
        self.found: dict[str, list[Manifest]] = {"Node": [node("a", epc="16Gi"), node("b", epc="16Gi")]}
        self.denied: Callable[[str, str, str], bool] = lambda _verb, _kind, _namespace: False
        self.unknown: set[str] = set()
        self.refused: set[str] = set()
        self.time: datetime | None = NOW
        self.up = True
        self.logged: str | None = json.dumps(ANSWER)
        self.phase: Mapping[str, Any] = {"phase": "Succeeded"}
        self.applied: list[Manifest] = []
        self.version = "v1.34.4"
        self.drops_mode = False
        self.gates: dict[str, Mapping[str, bool] | None] = {}

    def version_and_time(self) -> tuple[str, datetime | None]:
        if not self.up:
            raise ClusterUnreachableError("no answer", hint="look at it")
        return self.version, self.time

    def may(self, verb: str, version: str, kind: str, *, namespace: str = "", subresource: str = "") -> str | None:
        if kind in self.unknown:
            raise KindUnknownError(f"{kind} {version}")
        return f"{verb} {kind.lower()}s/{subresource}" if self.denied(verb, kind, namespace) else None

    def get(self, name: ObjectName) -> Manifest | None:
        return self.objects.get(name)

    def find(self, _version: str, kind: str, _namespace: str, _selector: str) -> Sequence[Manifest]:
        if kind in self.refused:
            raise ClusterRefusedError(f"listing {kind}: refused")
        return self.found.get(kind, [])

    def kubelet_feature_gates(self, node: str) -> Mapping[str, bool] | None:
        return self.gates[node]

    def apply(self, made: Manifest, *, dry_run: bool = False) -> Manifest:
        if dry_run:
            if self.drops_mode:
                del made["spec"]["containers"][0]["readinessProbe"]["grpc"]["mode"]
            return made
        self.applied.append(made)
        self.objects[ObjectName.of(made)] = {**made, "status": self.phase}
        return made

    def delete(self, name: ObjectName) -> bool:
        return self.objects.pop(name, None) is not None

    def log(self, _namespace: str, _pod: str, _container: str, *, last: int) -> Sequence[str]:  # noqa: ARG002
        return [] if self.logged is None else [self.logged]

    def pods(self) -> list[str]:
        return [name.namespace for name in self.objects if name.kind == "Pod"]


class _Stopped(datetime):
    """Set the clock to `NOW`, independently of the duration of earlier tests."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(NOW.timestamp(), tz)


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.cluster.kubernetes.preconditions.datetime", _Stopped)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def examine(context: RenderContext, cluster: FakeCluster) -> dict[str, Finding]:
    findings = list(examine_cluster(context, cluster))  # type: ignore[arg-type]  # it has the methods that are used
    assert cluster.pods() == []  # the pod is removed in any case
    return {finding.code.removeprefix("host.cluster-"): finding for finding in findings}


def test_a_cluster_with_all_that_is_needed(cluster: FakeCluster) -> None:
    cluster.found["Lease"] = [{"metadata": {"name": "a"}, "spec": {"renewTime": NOW.isoformat()}}]
    found = examine(make_context(platform="sgx"), cluster)
    assert list(found) == ["api", "clocks", "rights", "device-plugin", "epc", "storage", "broker"]
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert found["epc"].found == "capacity for replicas with 4294967296: a: 4, b: 4; wanted: 2"
    assert "attestation.example.com (192.0.2.44) answers" in found["broker"].found


def test_an_api_that_does_not_answer_is_the_only_finding(cluster: FakeCluster) -> None:
    cluster.up = False
    (found,) = examine(make_context(), cluster).values()
    assert (found.verdict, found.found, found.remedy) == (Verdict.MISSING, "no answer", "look at it")


def test_each_right_that_is_denied_is_named_once(cluster: FakeCluster) -> None:
    cluster.denied = lambda verb, kind, _namespace: (verb, kind) in {("patch", "Deployment"), ("get", "Node")}
    rights = examine(make_context(), cluster)["rights"]
    assert rights.verdict is Verdict.MISSING
    assert rights.found == "denied: patch deployments/ in sealserve"
    assert "can-i --list --namespace sealserve" in rights.remedy


def test_up_creates_no_object_if_it_may_not_create_all(cluster: FakeCluster) -> None:
    check_rights(make_context(), cluster)  # type: ignore[arg-type]  # it has the methods that are used
    cluster.denied = lambda verb, kind, _namespace: (verb, kind) == ("delete", "Service")
    with raises(
        ClusterCode.KUBERNETES_RIGHTS,
        match=r"does not meet a requirement \(cluster rights\): denied: delete services/ in",
    ) as caught:
        check_rights(make_context(), cluster)  # type: ignore[arg-type]
    assert caught.value.code == "kubernetes.rights"


def test_a_broker_in_the_cluster_requires_the_permission_for_its_secret(cluster: FakeCluster) -> None:
    cluster.denied = lambda verb, kind, _namespace: (verb, kind) == ("create", "Secret")
    check_rights(make_context(platform="sgx"), cluster)  # type: ignore[arg-type]
    with raises(ClusterCode.KUBERNETES_RIGHTS, match=r"denied: create secrets/ in"):
        check_rights(make_context("broker.dangerous_inside = true\n", platform="sgx"), cluster)  # type: ignore[arg-type]


def test_the_namespace_must_be_made_only_if_it_is_not_there(cluster: FakeCluster) -> None:
    cluster.denied = lambda _verb, kind, _namespace: kind == "Namespace"
    assert "create namespaces" in examine(make_context(), cluster)["rights"].found
    cluster.objects[ObjectName("v1", "Namespace", "", "sealserve")] = {}
    assert examine(make_context(), cluster)["rights"].verdict is Verdict.OK


def test_the_brokers_name_requires_permissions_in_a_different_namespace(cluster: FakeCluster) -> None:
    cluster.denied = lambda _verb, _kind, namespace: namespace == "kube-system"
    assert examine(make_context(), cluster)["rights"].verdict is Verdict.OK
    named = make_context('broker.naming = "coredns-hosts"\nbroker.ip = "192.0.2.44"\n')
    cluster.objects[ObjectName("v1", "ConfigMap", "kube-system", "coredns")] = {"data": {"Corefile": ".:53 {\n}\n"}}
    assert examine(named, cluster)["rights"].found == (
        "denied: get configmaps/ in kube-system, patch configmaps/ in kube-system"
    )


def test_a_front_whose_kind_is_not_installed(cluster: FakeCluster) -> None:
    cluster.unknown = {"TLSRoute"}
    kinds = examine(make_context('ingress.kind = "gateway-api"\n'), cluster)["kinds"]
    assert kinds.found == "not supported by the cluster: TLSRoute (gateway.networking.k8s.io/v1)"


def test_a_deployment_that_cannot_be_rendered(cluster: FakeCluster) -> None:
    toml = TOML.replace('store.source = "https://store.example.com:8443/{release}.tar"', "")
    assert "kubernetes.store.source" in examine(make_context(toml=toml), cluster)["objects"].found
    with pytest.raises(NotRenderableError, match=r"kubernetes\.store\.source"):
        check_rights(make_context(toml=toml), cluster)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "verdict", "text"),
    [(45, Verdict.MISSING, "the clock of node a is 45 s ahead"),
     (-300, Verdict.NOTE, "no lease renewal for a minute: a"),
     (-20, Verdict.OK, "within 30 s"), (2, Verdict.OK, "within 30 s")],
)  # fmt: skip
def test_a_nodes_clock(cluster: FakeCluster, seconds: int, verdict: Verdict, text: str) -> None:
    renewed = (NOW + timedelta(seconds=seconds)).isoformat()
    cluster.found["Lease"] = [{"metadata": {"name": "a"}, "spec": {"renewTime": renewed}}]
    clocks = examine(make_context(), cluster)["clocks"]
    assert clocks.verdict is verdict
    assert text in clocks.found


def test_this_machines_clock(cluster: FakeCluster) -> None:
    cluster.time = NOW + timedelta(minutes=5)
    clocks = examine(make_context(), cluster)["clocks"]
    assert clocks.verdict is Verdict.MISSING
    assert "this machine's clock is" in clocks.found
    assert "behind" in clocks.found


def test_an_api_server_without_a_clock(cluster: FakeCluster) -> None:
    cluster.time = None
    assert examine(make_context(), cluster)["clocks"].verdict is Verdict.NOTE


def test_leases_that_may_not_be_listed_are_a_note(cluster: FakeCluster) -> None:
    cluster.refused = {"Lease"}
    assert examine(make_context(), cluster)["clocks"].verdict is Verdict.NOTE
    cluster.time = NOW + timedelta(minutes=5)
    assert examine(make_context(), cluster)["clocks"].verdict is Verdict.MISSING


def test_nodes_without_the_plugin(cluster: FakeCluster) -> None:
    cluster.found["Node"] = [node("a"), node("b", epc="16Gi", taint="sgx")]
    plugin = examine(make_context(platform="sgx"), cluster)["device-plugin"]
    assert plugin.verdict is Verdict.MISSING
    assert plugin.found == (
        "none of 1 nodes offers sgx.intel.com/epc and sgx.intel.com/enclave; 1 nodes are not selected or are tainted"
    )
    assert "Intel's SGX device plugin" in plugin.remedy


def test_the_plugin_of_a_cloud_is_named(cluster: FakeCluster) -> None:
    cluster.found["Node"] = [node("a")]
    toml = TOML.replace("[kubernetes]", '[target]\ncloud = "azure-dcsv3"\n[kubernetes]')
    assert "confcom" in examine(make_context(platform="sgx", toml=toml), cluster)["device-plugin"].remedy


def test_too_little_epc(cluster: FakeCluster) -> None:
    epc = examine(make_context("autoscaler.max_replicas = 9\n", platform="sgx"), cluster)["epc"]
    assert epc.verdict is Verdict.MISSING
    assert epc.found.endswith("a: 4, b: 4; wanted: 9")


def test_a_roll_out_needs_room_for_one_more(cluster: FakeCluster) -> None:
    epc = examine(make_context("autoscaler.max_replicas = 8\n", platform="sgx"), cluster)["epc"]
    assert (epc.verdict, epc.remedy) == (
        Verdict.NOTE, "leave capacity for one more: a roll-out starts a replica before it stops another"
    )  # fmt: skip


def test_epc_of_an_enclave_that_is_not_built_yet(cluster: FakeCluster) -> None:
    assert examine(make_context('resources.epc = "0"\n', platform="sgx"), cluster)["epc"].verdict is Verdict.NOTE


def test_nodes_that_may_not_be_listed(cluster: FakeCluster) -> None:
    cluster.refused = {"Node"}
    assert examine(make_context(platform="sgx"), cluster)["device-plugin"].found == "listing Node: refused"


def claim(mode: str, phase: str, kind: str) -> Manifest:
    return {"spec": {"accessModes": [mode], "storageClassName": kind}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("there", "verdict", "text"),
    [
        (None, Verdict.MISSING, "the claim sealserve/releases does not exist; storage classes in the cluster: nfs"),
        (
            claim("ReadWriteOnce", "Bound", "nfs"),
            Verdict.MISSING,
            "is ReadWriteOnce, so pods on several nodes cannot share it",
        ),
        (claim("ReadWriteMany", "Bound", "other"), Verdict.OK, "is Bound, of class other"),
        (claim("ReadWriteMany", "Pending", "nfs"), Verdict.NOTE, "is Pending, of class nfs"),
        (
            claim("ReadWriteMany", "Pending", "other"),
            Verdict.MISSING,
            "of class other; storage classes in the cluster: nfs",
        ),
    ],
)
def test_a_claim(cluster: FakeCluster, there: Manifest | None, verdict: Verdict, text: str) -> None:
    cluster.found["StorageClass"] = [{"metadata": {"name": "nfs"}}]
    if there is not None:
        cluster.objects[ObjectName("v1", "PersistentVolumeClaim", "sealserve", "releases")] = there
    storage = examine(make_context(toml=CLAIMED), cluster)["storage"]
    assert storage.verdict is verdict
    assert text in storage.found


def test_a_claim_that_up_will_make(cluster: FakeCluster) -> None:
    context = make_context('store.storage_class = "nfs"\n', toml=CLAIMED)
    assert "does not exist" in examine(context, cluster)["storage"].found
    cluster.found["StorageClass"] = [{"metadata": {"name": "nfs"}}]
    assert examine(context, cluster)["storage"].found == "`up` creates the claim releases with class nfs"


def test_a_name_that_pods_cannot_resolve(cluster: FakeCluster) -> None:
    cluster.logged = json.dumps({"addresses": [], "answers": False, "error": "Name or service not known"})
    broker = examine(make_context(), cluster)["broker"]
    assert broker.verdict is Verdict.MISSING
    assert broker.found == "a pod cannot resolve attestation.example.com: Name or service not known"
    assert "coredns-hosts" in broker.remedy


def test_a_broker_that_does_not_run_yet(cluster: FakeCluster) -> None:
    cluster.logged = json.dumps({**ANSWER, "answers": False, "error": "Connection refused"})
    broker = examine(make_context(), cluster)["broker"]
    assert broker.verdict is Verdict.NOTE
    assert "does not answer on port 4433 yet: Connection refused" in broker.found


def test_a_name_that_up_will_add_is_checked_by_its_address(cluster: FakeCluster) -> None:
    corefile = ObjectName("v1", "ConfigMap", "kube-system", "coredns")
    cluster.objects[corefile] = {"data": {"Corefile": ".:53 {\n}\n"}}
    context = make_context('broker.naming = "coredns-hosts"\nbroker.ip = "192.0.2.44"\n')
    assert "which `up` adds for 192.0.2.44" in examine(context, cluster)["broker"].found
    assert cluster.applied[-1]["spec"]["containers"][0]["command"][-2:] == ["192.0.2.44", "4433"]
    named = make_context('broker.naming = "external-name"\nbroker.external_name = "broker.example.com"\n')
    assert "which `up` adds for broker.example.com" in examine(named, cluster)["broker"].found


def test_the_pod_is_confined_and_no_service_finds_it(cluster: FakeCluster) -> None:
    context = make_context(
        'images.pull_secret = "pull"\nscheduling.tolerations = ["sgx"]\nscheduling.node_selector = { "pool" = "sgx" }\n'
    )
    examine(context, cluster)
    (pod,) = cluster.applied
    assert pod["metadata"]["namespace"] == "default"  # its own is not there yet
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] != "sealserve"
    assert pod["spec"]["activeDeadlineSeconds"] <= 60
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    cluster.objects[ObjectName("v1", "Namespace", "", "sealserve")] = {}
    examine(context, cluster)
    assert cluster.applied[-1]["metadata"]["namespace"] == "sealserve"


def test_an_image_that_cannot_be_pulled_is_reported_immediately(cluster: FakeCluster) -> None:
    waiting = {"reason": "ErrImagePull", "message": "not found"}
    cluster.phase = {"containerStatuses": [{"name": "doctor", "state": {"waiting": waiting}}]}
    broker = examine(make_context(), cluster)["broker"]
    assert broker.verdict is Verdict.NOTE
    assert "ErrImagePull: not found" in broker.found


def test_a_pod_that_does_not_start_is_not_waited_for_for_ever(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach_probe, "_PATIENCE", 0.0)
    cluster.phase = {}
    assert "it is still starting" in examine(make_context(), cluster)["broker"].found


@pytest.mark.parametrize("line", ["", "{}", "[]", "null", '{"addresses": ["x"], "answers": true, "error": ""}'])
def test_the_output_of_the_pod_is_validated(line: str) -> None:
    with pytest.raises(ProbeError, match="printed no valid result") as caught:
        read([line])
    assert caught.value.code == "kubernetes.probe"
