"""Decisions of the Kubernetes target. `make test-kubernetes` tests its effects on a real cluster."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import make_site
from tests.unit.cluster.kubernetes.conftest import make_context, node

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.capacity import epc_of_replica
from sealserve.cluster.kubernetes.cluster_client import ObjectName
from sealserve.cluster.kubernetes.objects import objects
from sealserve.cluster.kubernetes.record import Record
from sealserve.cluster.kubernetes.rollout import has_every_pod, is_complete
from sealserve.cluster.kubernetes.takeover import take_over
from sealserve.cluster.kubernetes.target import KubernetesTarget, running
from sealserve.cluster.presented_certificate import PresentedCertificate
from sealserve.cluster.target import Health
from sealserve.workspace import Workspace

REPLICAS = "sealserve-replicas"
SERVICE = ObjectName("v1", "Service", "sealserve", "sealserve-front")


class Nodes:
    """A cluster in which only the nodes' EPC matters."""

    def __init__(self, *epc: str) -> None:
        self._epc = epc

    def find(self, *_arguments: str) -> list[Any]:
        return [node(f"node-{number}", epc=epc) for number, epc in enumerate(self._epc)]


def check_room(context: Any, tmp_path: Path, *epc: str) -> None:
    site = make_site(tmp_path)
    target = KubernetesTarget(site.workspace, context.deployment)
    target._open = Nodes(*epc)  # type: ignore[assignment]
    target._check_room(epc_of_replica(context), max(context.replicas, context.settings.autoscaler.max_replicas or 0))


def test_gramine_direct_is_not_supported(tmp_path: Path) -> None:
    site = make_site(tmp_path, platform="gramine-direct")
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="Kubernetes target does not support gramine-direct") as caught:
        KubernetesTarget(site.workspace, site.deployment)
    assert "target local or docker" in (caught.value.hint or "")


def test_epc_is_compared_before_anything_is_applied(tmp_path: Path) -> None:
    context = make_context(platform="sgx", replicas=3)
    check_room(context, tmp_path / "a", "8Gi", "4Gi", "")
    with raises(
        ClusterCode.KUBERNETES_EPC, match=r"3 replicas with 4294967296 of EPC each .* is enough for 2"
    ) as caught:
        check_room(context, tmp_path / "b", "8Gi", "3Gi")
    assert caught.value.code == "kubernetes.epc"


def test_the_autoscaler_cannot_ask_for_more_epc_than_there_is(tmp_path: Path) -> None:
    with raises(ClusterCode.KUBERNETES_EPC, match="8 replicas"):
        check_room(make_context("autoscaler.max_replicas = 8\n", platform="sgx"), tmp_path, "16Gi")


def test_simulated_replicas_need_no_epc(tmp_path: Path) -> None:
    check_room(make_context(), tmp_path)


def test_scaling_up_counts_the_epc_that_runs(tmp_path: Path) -> None:
    class Running(Nodes):
        changed = 0

        def get(self, _name: ObjectName) -> Any:
            context = make_context(platform="sgx")
            return next(made for made in objects(context) if made["metadata"]["name"] == "sealserve-replicas"
                        and made["kind"] == "Deployment")  # fmt: skip

        def merge(self, _name: ObjectName, _patch: object) -> None:
            self.changed += 1

    cluster = Running("8Gi", "4Gi")
    target = KubernetesTarget(make_site(tmp_path).workspace, make_context(platform="sgx").deployment)
    target._open = cluster  # type: ignore[assignment]
    with raises(ClusterCode.KUBERNETES_EPC, match=r"4 replicas with 4294967296 of EPC each do not fit"):
        target.scale(4)
    assert cluster.changed == 0


def test_up_leaves_an_autoscalers_choice_and_scale_bounds_it(tmp_path: Path) -> None:
    context = make_context("autoscaler.max_replicas = 4\n", replicas=2)
    made = list(objects(context))
    (deployment,) = [item for item in made if item["kind"] == "Deployment" and item["metadata"]["name"] == REPLICAS]

    def up_with(running: int | None) -> int:
        before = None if running is None else {**deployment, "spec": {"replicas": running}}
        kept = take_over(made, before, context).replicas
        assert running is None or deployment["spec"]["replicas"] == kept
        return kept

    assert [up_with(running) for running in (None, 1, 3, 9)] == [2, 2, 3, 4]
    alone = make_context(replicas=2)
    assert take_over(list(objects(alone)), {**deployment, "spec": {"replicas": 3}}, alone).replicas == 2

    class Cluster:
        merged: ClassVar[list[tuple[str, Any]]] = []

        def get(self, _name: ObjectName) -> Any:
            return deployment

        def merge(self, name: ObjectName, patch: Any) -> None:
            self.merged.append((name.kind, patch["spec"]))
            raise StopIteration  # the remaining steps are the same as without an autoscaler

    target = KubernetesTarget(make_site(tmp_path).workspace, context.deployment)
    target._open = Cluster()  # type: ignore[assignment]
    with pytest.raises(StopIteration):
        target.scale(3)
    assert Cluster.merged == [("HorizontalPodAutoscaler", {"minReplicas": 3})]
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="limit is 4 replicas"):
        target.scale(5)


def test_a_serving_replica_is_healthy_and_has_the_end_of_its_certificate(tmp_path: Path) -> None:
    class Cluster:
        def log(self, *_arguments: object, last: int) -> list[str]:
            assert last > 1
            return ["INFO step=renewed certificate_from=2026-11-29T10:00:00Z certificate_until=2026-11-30T10:00:00Z"]

    target = KubernetesTarget(make_site(tmp_path).workspace, make_context().deployment)
    target._open = Cluster()  # type: ignore[assignment]
    labels = {"app.kubernetes.io/component": "replicas"}
    metadata = {"name": "p", "namespace": "n", "labels": labels}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    pod = {"metadata": metadata, "spec": {}, "status": ready}
    assert target._pod_status("replica-0", pod).certificate == PresentedCertificate(
        issued=datetime(2026, 11, 29, 10, tzinfo=UTC), ends=datetime(2026, 11, 30, 10, tzinfo=UTC)
    )
    assert target._pod_status("replica-0", {**pod, "status": {}}).certificate is None
    front = {**pod, "metadata": {**metadata, "labels": {"app.kubernetes.io/component": "front"}}}
    assert target._pod_status("nginx", front).certificate is None
    hanging = {"containerStatuses": [{"name": "server", "started": True, "ready": False}]}
    assert target._pod_status("replica-0", {**pod, "status": hanging}).health is Health.UNHEALTHY
    assert target._pod_status("replica-0", pod).health is Health.HEALTHY
    assert target._pod_status("replica-0", {**pod, "status": {}}).health is Health.UNKNOWN


def test_objects_are_recorded_before_they_are_created(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.create()
    record = Record(workspace)
    assert running(workspace) == []
    record.add(SERVICE)
    record.add(SERVICE)
    assert running(workspace) == ["service/sealserve-front"]
    record.remove(SERVICE)
    assert not (workspace.host.run / "kubernetes.json").exists()


def test_a_roll_out_is_complete_when_just_the_new_pods_are_there() -> None:
    whole = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "observedGeneration": 3}
    deployment = {"metadata": {"generation": 3}, "spec": {"replicas": 2}, "status": whole}
    assert is_complete(deployment)
    for change in ({"replicas": 3}, {"updatedReplicas": 1}, {"availableReplicas": 1}, {"observedGeneration": 2}):
        assert not is_complete({**deployment, "status": {**whole, **change}})


@pytest.mark.parametrize(
    ("current", "remembered", "every_pod", "previous", "replaced"),
    [
        ("old", None, True, "old", ["old"]),
        ("new", "old", True, "old", ["old"]),  # `up` again
        ("new", None, True, None, []),
        ("refused", "old", False, "old", ["old", "refused"]),
        ("new", "old", False, "old", ["old"]),
        ("refused", "new", False, "refused", ["refused"]),  # back to the release that still serves
        ("slow", "old", True, "slow", ["slow", "old"]),  # a roll-out whose end no command waited for
    ],
)
def test_the_previous_release_is_the_release_that_served(
    current: str, remembered: str | None, every_pod: bool, previous: str | None, replaced: list[str]
) -> None:
    def deployment(release: str, before: str | None = None) -> dict[str, Any]:
        annotations = {"sealserve/release": release, **({"sealserve/previous-release": before} if before else {})}
        metadata = {"name": "sealserve-replicas", "namespace": "n", "annotations": annotations, "generation": 2}
        status = {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3 if every_pod else 1}
        spec = {"replicas": 2}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec, "status": status}

    made = deployment("new")
    assert take_over([made], deployment(current, remembered), make_context()).replaced == replaced
    assert made["metadata"]["annotations"].get("sealserve/previous-release") == previous


def test_an_outdated_status_does_not_count_as_complete() -> None:
    status = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2}
    assert has_every_pod({"metadata": {"generation": 2}, "status": status})
    assert not has_every_pod({"metadata": {"generation": 3}, "status": status})
