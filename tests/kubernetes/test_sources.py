"""The sources of a release and of the broker's name for the pods of a deployment, each on a real cluster.

The service has one-way TLS, so the kubelets check the readiness of its replicas by gRPC.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from testbed.kubernetes import layout
from testbed.kubernetes.cluster import Cluster
from testbed.kubernetes.images import write_image
from testbed.s3 import store as s3_store
from tests.harness.container_images import Images
from tests.harness.s3 import presign
from tests.kubernetes.conftest import Kubectl
from tests.kubernetes.service import Service, find_place, make_deployment, store, wait

from sealserve.cluster.kubernetes.sources import BUNDLE
from sealserve.cluster.local.target import LocalTarget
from sealserve.cluster.target import Health, PartStatus, State
from sealserve.containers.recipes import SERVICE_USER
from sealserve.sealing import archive
from sealserve.terms import BrokerNaming

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

SPACE: Final = "sealserve"
OUTSIDE: Final = "outside"
OWNER: Final = f"owner.{OUTSIDE}.svc.{layout.DOMAIN}"
BROKER: Final = f"sealserve-broker.{SPACE}.svc.{layout.DOMAIN}"
CLAIM: Final = "releases"
REPLICAS: Final = "app.kubernetes.io/component=replicas"
IMAGE: Final = "localhost/sealserve-test/release"


@pytest.fixture(scope="module")
def cluster(testbed: Cluster | None, kubectl: Kubectl) -> Iterator[Cluster]:
    """The testbed's cluster, with a name for the owner's machine in its DNS, and the deployment's namespace."""
    if testbed is None:
        pytest.skip("this puts images and files on the testbed's own nodes")
    metadata = {"name": "owner", "namespace": OUTSIDE}
    port = {"name": "broker", "port": 4433, "protocol": "TCP"}
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OUTSIDE}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "None", "ports": [port]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
         "metadata": {**metadata, "labels": {"kubernetes.io/service-name": "owner"}},
         "addressType": "IPv4", "endpoints": [{"addresses": [layout.CONTROL_PLANE]}], "ports": [port]},
    ]  # fmt: skip
    kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": items})
    yield testbed
    kubectl("delete", "namespace", OUTSIDE, SPACE, "--wait=false")


@pytest.fixture(scope="module")
def service(
    cluster: Cluster, images: Images, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A deployment of one replica, whose broker has a name in the cluster's DNS. Each test makes it fetch again."""
    assert cluster
    folder, place = tmp_path_factory.mktemp("site"), find_place(kubectl)
    site = make_deployment(
        folder,
        images,
        place=place,
        broker=BROKER,
        tables={"broker": {"naming": "external-name", "external_name": OWNER}},
        grpc_readiness=True,
    )
    deployed = Service(site)
    with store(place.here, folder / "store"):
        try:
            deployed.up(deployed.build_release(), 1)
            yield deployed
        finally:
            deployed.down_without_draining(kubectl)
    assert kubectl("-n", SPACE, "get", "all", "--ignore-not-found") == ""
    assert kubectl("get", "namespace", SPACE), "it was there before, so it stays"


def test_the_broker_is_found_by_a_service_of_the_cluster(service: Service, kubectl: Kubectl) -> None:
    made = json.loads(kubectl("-n", SPACE, "get", "service", "sealserve-broker", "-o", "json"))
    assert made["spec"]["externalName"] == OWNER
    assert_served(service)


def test_a_release_comes_in_an_image(service: Service, cluster: Cluster, tmp_path: Path) -> None:
    with settings_of(service, store={"source": f"image:{IMAGE}:{{release}}"}):
        release = service.build_release()
        service.prepare(release)
        bundle = tmp_path / "bundle.tar"
        archive.pack(release, bundle)
        files = {"bin/busybox": Path("/bin/busybox"), BUNDLE.removeprefix("/"): bundle}
        write_image(tmp_path / "image.tar", f"{IMAGE}:{release.name}", files, command=(), links={"bin/cp": "busybox"})
        cluster.load([tmp_path / "image.tar"])
        service.up(release, 1)
        assert_served(service)


def test_a_release_comes_on_a_claim(service: Service, kubectl: Kubectl) -> None:
    folder = layout.STATE / CLAIM
    folder.mkdir()
    try:
        given = [
            volume("PersistentVolume", {"capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}}),
            volume("PersistentVolumeClaim", {"resources": {"requests": {"storage": "1Gi"}}}),
        ]
        kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": given})
        with settings_of(service, store={"source": f"claim:{CLAIM}"}):
            release = service.build_release()
            service.prepare(release)
            shutil.copytree(release, folder / release.name)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, SERVICE_USER, SERVICE_USER)
            service.up(release, 1)
            assert_served(service)
    finally:
        service.up(service.build_release(), 1)  # the claim is no longer used
        kubectl("-n", SPACE, "delete", "persistentvolumeclaim", CLAIM, "--wait=false")
        kubectl("delete", "persistentvolume", CLAIM, "--wait=false")


def test_a_release_comes_from_an_s3_store(service: Service, tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    release = service.build_release()
    with s3_store.running(layout.CONTROL_PLANE, tmp_path) as s3:
        address = f"{s3.address}/releases/{release.name}.tar"
        signed = presign(
            address, access_key=s3.access_key, secret_key=s3.secret_key, now=service.site.now, seconds=600,
            region=s3_store.REGION,
        )  # fmt: skip
        service.prepare(release)
        archive.pack(release, tmp_path / "releases" / f"{release.name}.tar")
        assert httpx.get(address).status_code == httpx.codes.FORBIDDEN
        with settings_of(service, store={"source": signed}):
            service.up(release, 1)
            assert_served(service)


def test_a_trial_has_its_broker_in_the_cluster_and_leaves_no_key_there(service: Service, kubectl: Kubectl) -> None:
    local = LocalTarget(service.site.workspace, service.site.deployment)
    for role in ("broker", "pcs"):
        local._registry.all()[role].stop()
    settings = {"dangerous_inside": True, "naming": BrokerNaming.DNS}
    with settings_of(service, broker=settings):
        release = service.build_release()
        service.up(release, 1)
        assert_served(service)
        states = {part.role: part.state for part in service.target.status()}
        assert states["broker"] is State.RUNNING
        assert local._registry.all()["broker"].is_alive() is False
        assert "released" in kubectl("-n", SPACE, "logs", "deployment/sealserve-broker", "-c", "broker")
        material = json.loads(kubectl("-n", SPACE, "get", "secret", "sealserve-broker", "-o", "json"))["data"]
        key = base64.b64encode(service.site.workspace.owner.master_key.read_bytes()).decode()
        assert key in material.values(), "this is what makes it dangerous"
        assert service.difference(release, 1) == ""
    # After the trial, the objects that only the trial needed are gone.
    assert "secret/sealserve-broker\n+++ /dev/null" in service.difference(release, 1)
    service.up(service.build_release(), 1)
    assert_served(service)
    assert kubectl("-n", SPACE, "get", "secret,deployment", "-o", "name").count("broker") == 0


def test_a_replica_that_hangs_gets_no_connections_until_it_answers_again(service: Service, kubectl: Kubectl) -> None:
    """The kernel still accepts connections for a stopped process, so a TCP probe does not notice that it hangs."""
    pods = json.loads(kubectl("-n", SPACE, "get", "pods", "-l", REPLICAS, "-o", "json"))["items"]
    (pod,) = [found for found in pods if "deletionTimestamp" not in found["metadata"]]
    name = pod["metadata"]["name"]
    assert pod["spec"]["containers"][0]["readinessProbe"]["grpc"] == {"port": 8500, "service": "", "mode": "TLS"}
    processes = processes_of(pod["metadata"]["uid"])
    assert processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        wait(lambda: replica(service, name).health is Health.UNHEALTHY, 60)
        assert "readiness probe fails" in replica(service, name).error
        events = json.loads(kubectl("-n", SPACE, "get", "events", "-o", "json"))["items"]
        told = [event["message"] for event in events if event["involvedObject"]["name"] == name]
        assert any(text.startswith("Readiness probe failed: timeout: failed to connect service") for text in told)
        (slice_,) = json.loads(kubectl("-n", SPACE, "get", "endpointslices", "-l", REPLICAS, "-o", "json"))["items"]
        endpoints = {point["targetRef"]["name"]: point["conditions"]["ready"] for point in slice_["endpoints"]}
        assert endpoints[name] is False
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
    wait(lambda: replica(service, name).state is State.SERVING, 60)
    assert_served(service)
    assert replica(service, name).restarts == 0


@contextlib.contextmanager
def settings_of(service: Service, **tables: Mapping[str, Any]) -> Iterator[None]:
    """Change settings in tables of the deployment's `[kubernetes]` until the block ends."""
    before = service.site
    section = before.deployment.kubernetes
    changed = {name: getattr(section, name).model_copy(update=values) for name, values in tables.items()}
    kubernetes = section.model_copy(update=changed)
    service.site = replace(before, deployment=before.deployment.model_copy(update={"kubernetes": kubernetes}))
    try:
        yield
    finally:
        service.site = before


def volume(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a volume or the claim for it."""
    metadata = {"name": CLAIM, **({"namespace": SPACE} if kind.endswith("Claim") else {})}
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": "by-hand"}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {**common, **spec}}


def replica(service: Service, name: str) -> PartStatus:
    """Return the status of a replica by the name of its pod."""
    (found,) = [part for part in service.target.status() if part.instance == name]
    return found


def processes_of(pod: str) -> list[int]:
    """Return the processes of a pod's containers on this machine, which runs the testbed's nodes."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and f"pod{pod}" in (folder / "cgroup").read_text():
                pauses = (folder / "cmdline").read_bytes().startswith(b"/bin/busybox")
                found += [] if pauses else [int(folder.name)]
    return found


def assert_served(service: Service) -> None:
    """Send requests to the only replica."""
    serving = [
        part for part in service.target.status() if part.role.startswith("replica-") and part.state is State.SERVING
    ]
    assert len(serving) == 1
    with service.load(clients=1) as load:
        wait(lambda: load.answered > 20)
    assert load.errors == []
