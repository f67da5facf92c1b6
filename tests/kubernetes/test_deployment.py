"""A deployment on a real cluster, in the order of its life cycle. Each test leaves two serving replicas."""

import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from testbed.kubernetes.cluster import Cluster
from tests.harness import attested_user
from tests.harness.container_images import Images
from tests.harness.errors import raises
from tests.harness.rest import RestLoad
from tests.kubernetes.conftest import Kubectl
from tests.kubernetes.service import Service, find_place, make_deployment, store, wait

from sealserve.bundle import OwnersBroker, read_bundle
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.container_layout import ENCLAVE
from sealserve.cluster.kubernetes import files
from sealserve.cluster.kubernetes.cluster_client import ClusterRefusedError, KindUnknownError
from sealserve.cluster.kubernetes.objects import objects
from sealserve.cluster.kubernetes.shipping import render_context
from sealserve.cluster.local.owner_services import OwnerServices
from sealserve.cluster.local.target import LocalTarget
from sealserve.cluster.logs.selection import LogSelection
from sealserve.cluster.target import BROKER, PCS, State
from sealserve.owner import enclaves, preparation
from sealserve.sealing import archive
from sealserve.tcp_ports import SERVICE_PORT

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

SPACE = "sealserve"
REPLICAS = "app.kubernetes.io/component=replicas"
FRONTS = "app.kubernetes.io/component=front"
REFUSALS = {"revoked": "policy.release-revoked", "measured-otherwise": "policy.mr-enclave-unknown"}
LISTENS = "0A"  # a socket's state in /proc/net/tcp: proc(5)


@pytest.fixture(scope="module")
def service(images: Images, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("site")
    place = find_place(kubectl)
    site = make_deployment(folder, images, place=place, server={"rest": True})
    before = corefile(kubectl)
    deployed = Service(site)
    with store(place.here, folder / "store"):
        try:
            deployed.up(deployed.build_release())
            yield deployed
        finally:
            deployed.down()
    # `down` left nothing: no namespace, no name in the cluster's DNS, and no process on this machine.
    assert kubectl("get", "namespace", SPACE, check=False).count("NotFound") == 1
    assert corefile(kubectl) == before
    assert LocalTarget(site.workspace, site.deployment).status() == []
    assert deployed.target.status() == []


def test_each_replica_was_attested_on_its_own_and_answers(service: Service, kubectl: Kubectl) -> None:
    states = {part.instance: part.state for part in service.target.status() if part.role.startswith("replica-")}
    assert list(states.values()) == [State.SERVING, State.SERVING]
    for pod in states:
        log = kubectl("-n", SPACE, "logs", pod, "-c", "server")
        assert "step=quote" in log
        assert "step=key key_name=release bytes=16" in log
    with service.load() as load:
        wait(lambda: len(load.instances) == 2)
    assert load.errors == []


def test_a_user_verifies_the_service_before_the_first_input(service: Service) -> None:
    site = service.site
    (release,) = {part.release for part in serving(service)}
    attested_user.check_verified(site, attested_user.trust(site), release=site.workspace.owner.releases / release)
    for part in serving(service):
        assert part.certificate is not None
        assert timedelta() < part.certificate.ends - datetime.now(UTC) <= timedelta(hours=24)


def test_nginx_forwards_only_tls_with_the_services_name(service: Service) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    settings = service.site.deployment.service
    for address in ((settings.listen, settings.port), (settings.listen, settings.rest_port)):
        for request in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            with socket.create_connection(address, timeout=5) as connection:
                connection.sendall(request)
                assert connection.recv(100) == b""
        with (
            socket.create_connection(address, timeout=5) as connection,
            pytest.raises(OSError, match=r".*"),
            context.wrap_socket(connection, server_hostname="other.example.com"),
        ):
            pass
    assert service.target.status()


def test_only_nginx_reaches_the_replicas_and_they_listen_nowhere_else(service: Service, kubectl: Kubectl) -> None:
    assert service.site
    front = kubectl("-n", SPACE, "get", "pods", "-l", FRONTS, "-o", "jsonpath={.items[0].metadata.name}")
    for pod in replicas(kubectl):
        address = pod["status"]["podIP"]
        connect = f"exec 3<> /dev/tcp/{address}/8500 && exec 4<> /dev/tcp/{address}/8501 && echo connected"
        assert "connected" in kubectl("-n", SPACE, "exec", front, "--", "timeout", "5", "bash", "-c", connect)
        if not this_machine_is_a_node(service):  # policies do not restrict a node's own host
            with pytest.raises(OSError, match=r".*"):
                socket.create_connection((address, 8500), timeout=2).close()
        names = {other["metadata"]["name"] for other in replicas(kubectl)}
        other = (names - {pod["metadata"]["name"]}).pop()
        for port in (8500, 8501):
            connect = f"exec 3<> /dev/tcp/{address}/{port} && echo connected"
            assert "connected" not in execute(kubectl, other, "timeout", "5", "bash", "-c", connect, check=False)
        sockets = execute(kubectl, pod["metadata"]["name"], "cat", "/proc/net/tcp", "/proc/net/tcp6")
        rows = [line.split() for line in sockets.splitlines()]
        assert {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENS} == {8500, 8501}


def test_pods_have_no_privileges(service: Service, kubectl: Kubectl) -> None:
    assert service.site
    for pod in replicas(kubectl):
        name = pod["metadata"]["name"]
        status = execute(kubectl, name, "cat", "/proc/1/status")
        facts = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
        assert {facts[name].split()[0] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"
        assert facts["Seccomp"] == "2"
        assert facts["Uid"].split() == ["65532"] * 4
        assert "No such file" in execute(kubectl, name, "ls", "/var/run/secrets/kubernetes.io", check=False)
        assert "Read-only" in execute(kubectl, name, "touch", "/opt/x", check=False)


def test_scaling_up_and_down_loses_no_request(service: Service) -> None:
    with service.load() as load, RestLoad(service.site, 3) as over_rest:
        for count in (1, 3, 2):
            service.target.scale(count)
            wait(lambda load=load, before=load.answered: load.answered > before + 20)  # type: ignore[misc]
    assert load.errors == over_rest.errors == []
    assert all(over_rest.moved)


def test_a_pod_that_is_killed_costs_no_more_than_what_was_in_flight(service: Service, kubectl: Kubectl) -> None:
    with service.load(clients=3) as load:
        wait(lambda: load.answered > 20)
        victim = replicas(kubectl)[0]["metadata"]["name"]
        kubectl("-n", SPACE, "delete", "pod", victim, "--grace-period=0", "--force")
        settle(service, kubectl)
    assert len(load.errors) <= 3
    assert load.answered > 100


def test_an_nginx_that_is_killed_costs_no_more_than_what_was_in_flight(service: Service, kubectl: Kubectl) -> None:
    with service.load(clients=3) as load:
        wait(lambda: load.answered > 20)
        pods = kubectl("-n", SPACE, "get", "pods", "-l", FRONTS, "-o", "name").split()
        kubectl("-n", SPACE, "delete", pods[0], "--grace-period=0", "--force")
        kubectl("-n", SPACE, "rollout", "status", "deployment/sealserve-front", "--timeout=60s")
    assert len(load.errors) <= 3


def test_a_node_is_drained(testbed: Cluster | None, service: Service, kubectl: Kubectl) -> None:
    if testbed is None:
        pytest.skip("others may have pods on the nodes of another cluster")
    node = replicas(kubectl)[0]["spec"]["nodeName"]
    try:
        with service.load() as load:
            kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
            settle(service, kubectl)
            assert {pod["spec"]["nodeName"] for pod in replicas(kubectl)} != {node}
    finally:
        kubectl("uncordon", node)
    assert load.errors == []


def test_a_kubelet_that_restarts_is_not_noticed(testbed: Cluster | None, service: Service, kubectl: Kubectl) -> None:
    if testbed is None:
        pytest.skip("this restarts the testbed's own kubelet")
    before = {pod["metadata"]["uid"] for pod in replicas(kubectl)}
    with service.load() as load:
        testbed.restart_kubelet(replicas(kubectl)[0]["spec"]["nodeName"])
        wait(lambda before=load.answered: load.answered > before + 1000)  # type: ignore[misc]
        settle(service, kubectl)
    assert load.errors == []
    assert {pod["metadata"]["uid"] for pod in replicas(kubectl)} == before


def test_a_broker_that_is_away_is_waited_for(service: Service, kubectl: Kubectl) -> None:
    local = LocalTarget(service.site.workspace, service.site.deployment)
    local._registry.all()["broker"].stop()
    try:
        with service.load() as load:
            kubectl("-n", SPACE, "scale", "deployment/sealserve-replicas", "--replicas=3")
            wait(lambda: any("provisioning.unreachable" in part.error for part in service.target.status()))
            wait(lambda: len(serving(service)) == 2)
            wait(lambda before=load.answered: load.answered > before + 50)  # type: ignore[misc]
    finally:
        services(service).start(BROKER)
    assert load.errors == []
    service.target.scale(3)
    service.target.scale(2)


def test_a_vendors_service_that_is_down_does_not_stop_replicas(service: Service) -> None:
    local = LocalTarget(service.site.workspace, service.site.deployment)
    local._registry.all()["pcs"].stop()
    assert {part.role: part.state for part in service.target.status()}["pcs"] is State.ENDED
    try:
        service.target.scale(3)  # the broker caches collateral that is still valid
    finally:
        services(service).start(PCS)
    service.target.scale(2)


def test_a_new_release_rolls_out_without_a_lost_request(service: Service) -> None:
    old = {part.release for part in serving(service)}
    release = service.build_release()
    with service.load() as load:
        service("up", "--release", release.name)
        wait(lambda before=load.answered: load.answered > before + 50)  # type: ignore[misc]
    assert standing(service, *old) == {"draining"}
    assert standing(service, release.name) == {"active"}
    assert load.errors == []
    assert {part.release for part in serving(service)} == {release.name}
    assert service.difference(release, 2) == ""


@pytest.mark.parametrize("reason", ["revoked", "measured-otherwise"])
def test_a_release_that_is_refused_stops_and_is_rolled_back(service: Service, reason: str) -> None:
    before = {part.release for part in serving(service)}
    release = service.build_release()
    with (
        service.load() as load,
        raises(ClusterCode.KUBERNETES_ROLLOUT_REFUSED, match=r"attest\.refused") as caught,
    ):
        {"revoked": roll_revoked, "measured-otherwise": roll_measured_otherwise}[reason](service, release)
    assert caught.value.code == "kubernetes.rollout-refused"
    assert load.errors == []
    refused = [part for part in service.target.status() if part.state is State.REFUSED]
    assert refused
    assert all("attest.refused" in part.error for part in refused)
    refusals = {row["code"] for row in service("broker", "log") if row["code"]}
    assert REFUSALS[reason] in refusals
    assert len(serving(service)) == 2
    assert standing(service, *before) == {"active"}
    for name in before:
        service("broker", "drain", name)
    with service.load() as load:
        service("up", "--rollback")
    assert load.errors == []
    assert {part.release for part in serving(service)} == before
    assert standing(service, *before) == {"active"}
    assert standing(service, release.name) == {"revoked" if reason == "revoked" else "draining"}


def test_a_tampered_file_on_the_volume_stops_that_pod_alone(service: Service, kubectl: Kubectl) -> None:
    victim = replicas(kubectl)[0]["metadata"]["name"]
    path = "/workspace/.sealserve/host/releases/*/tls/clients.cfg"
    # The container may end before its command ends. Until the kubelet detects this, the Service still lists it.
    execute(kubectl, victim, "sh", "-c", f"for file in {path}; do printf x >> $file; done; kill 1", check=False)
    wait(lambda: any(part.instance == victim and "error[" in part.error for part in service.target.status()))
    with service.load() as load:
        wait(lambda: load.answered > 100)
    assert all(part.instance != victim for part in serving(service))
    assert load.errors == []
    kubectl("-n", SPACE, "delete", "pod", victim, "--wait=false")
    settle(service, kubectl)


def test_logs_of_every_pod_have_its_name(service: Service) -> None:
    lines = list(service.target.logs(None, LogSelection(last=5)))
    assert {"nginx", "replica-0", "replica-1", "broker"} <= {line.part for line in lines}
    assert {line.instance for line in lines} >= {part.instance for part in serving(service)}


def test_objects_that_the_cluster_rejects_are_reported(service: Service) -> None:
    client = service.target._client
    made = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "x"}}
    with pytest.raises(KindUnknownError, match="does not support this kind"):
        client.apply(made)
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "No_Name", "namespace": SPACE}}
    with pytest.raises(ClusterRefusedError, match="No_Name") as caught:
        client.apply(made)
    assert caught.value.code == "kubernetes.refused"


def test_the_chart_is_linted_and_installed(service: Service, kubectl: Kubectl, tmp_path: Path) -> None:
    site = service.site
    release = min(site.workspace.owner.releases.glob("half*"))
    rendered = render_context(site.workspace, site.deployment, read_bundle(release, [ENCLAVE]))
    made = [
        item for item in objects(rendered) if item["metadata"]["name"] != "sealserve-front" or item["kind"] != "Service"
    ]
    for name, text in files.chart(rendered, made).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("there is no helm on PATH")
    assert "0 chart(s) failed" in run(helm, "lint", "--strict", str(tmp_path))
    text = run(helm, "template", "sealserve", str(tmp_path), "--namespace", "chart")
    assert text.count("namespace: chart") == len(made)
    options = ("--kubeconfig", str(kubectl.kubeconfig), "--namespace", "chart")
    run(helm, "install", "trial", str(tmp_path), *options, "--create-namespace", "--set", "replicas=0,frontReplicas=0")
    assert "sealserve-replicas" in kubectl("-n", "chart", "get", "deployments", "-o", "name")
    run(helm, "uninstall", "trial", *options)
    kubectl("delete", "namespace", "chart", "--wait=false")


def test_a_roll_out_that_does_not_end_is_reported(
    testbed: Cluster | None, service: Service, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    if testbed is None:
        pytest.skip("others may need the nodes of another cluster")
    nodes = [node.name for node in testbed.nodes()]
    target = service.target
    short = service.site.deployment.kubernetes.model_copy(update={"start_seconds": -59})
    monkeypatch.setattr(target, "_deployment", service.site.deployment.model_copy(update={"kubernetes": short}))
    kubectl("cordon", *nodes)
    try:
        with raises(ClusterCode.KUBERNETES_ROLLOUT_SLOW, match="2 of 3 replicas serve") as caught:
            target.scale(3)
        assert caught.value.code == "kubernetes.rollout-slow"
    finally:
        kubectl("uncordon", *nodes)
        service.target.scale(2)


def roll_revoked(service: Service, release: Path) -> None:
    """Roll out a release that the owner revokes before its enclaves start."""
    service.prepare(release)
    service("broker", "revoke", release.name, "--yes")
    roll_as_it_is(service, release)


def roll_measured_otherwise(service: Service, release: Path) -> None:
    """Roll out a release with an enclave that the owner did not allow: this enclave has more threads."""
    site = service.site
    service.prepare(release)
    inventory = preparation._inventory(site.workspace, service.target.destination(release.name, 1), print)
    allowed = enclaves.specify(
        site.workspace, site.deployment, release, name=ENCLAVE, port=SERVICE_PORT, inventory=inventory
    )
    other = replace(allowed, threads=allowed.threads + 1, max_threads=allowed.max_threads + 1)
    enclaves.build(site.workspace, release, other, now=site.now)
    store_folder = site.deployment.kubernetes.store.folder
    assert store_folder is not None
    archive.pack(release, store_folder / f"{release.name}.tar", overwrite=True)
    roll_as_it_is(service, release)


def roll_as_it_is(service: Service, release: Path) -> None:
    """Roll out a release whose enclave is neither built again nor allowed."""
    service.target.up(read_bundle(release, [ENCLAVE], broker=OwnersBroker()), 2)


def services(service: Service) -> OwnerServices:
    """Return the owner's services on this machine."""
    return OwnerServices(service.site.workspace, service.site.deployment)


def this_machine_is_a_node(service: Service) -> bool:
    deployment = service.site.deployment
    return deployment.broker.listen == deployment.service.listen


def serving(service: Service) -> list[Any]:
    return [
        part for part in service.target.status() if part.role.startswith("replica-") and part.state is State.SERVING
    ]


def standing(service: Service, *names: str) -> set[str]:
    """Return the states of releases at the broker."""
    return {known["state"] for known in service("broker", "releases") if known["name"] in names}


def settle(service: Service, kubectl: Kubectl) -> None:
    kubectl("-n", SPACE, "rollout", "status", "deployment/sealserve-replicas", "--timeout=240s")
    wait(lambda: len(serving(service)) == 2)


def replicas(kubectl: Kubectl) -> list[Any]:
    found = json.loads(kubectl("-n", SPACE, "get", "pods", "-l", REPLICAS, "-o", "json"))["items"]
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def execute(kubectl: Kubectl, pod: str, *command: str, check: bool = True) -> str:
    return kubectl("-n", SPACE, "exec", pod, "-c", "server", "--", *command, check=check)


def corefile(kubectl: Kubectl) -> str:
    return kubectl("-n", "kube-system", "get", "configmap", "coredns", "-o", "jsonpath={.data.Corefile}")


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout
