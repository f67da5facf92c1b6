"""Docker and Kubernetes give a replica everything that its description names."""

from pathlib import Path, PurePosixPath

import pytest
from tests.harness.workspaces import make_site
from tests.unit.cluster.kubernetes.conftest import make_context

from sealserve.cluster.docker.layout import ContainerLayout
from sealserve.cluster.docker.served import Served, for_containers
from sealserve.cluster.kubernetes.replicas import replicas
from sealserve.cluster.replica import Content, Replica, describe_replica
from sealserve.deployment import Deployment
from sealserve.host.facts import ENCLAVE_DEVICE

RELEASE = "half-plus-two-0123456789ab"
SIZE = 1000


def described(deployment: Deployment, *, attempts: int | None = None) -> Replica:
    return describe_replica(deployment, release=RELEASE, size=SIZE, enclave="server", port=8500, attempts=attempts)


@pytest.mark.parametrize("platform", ["simulated", "gramine-direct", "sgx"])
def test_docker_translates_the_whole_description(tmp_path: Path, platform: str) -> None:
    site = make_site(tmp_path / "site", platform=platform)
    deployment = for_containers(site.deployment)
    layout = ContainerLayout(
        site.workspace, deployment, broker_here=True, user="65532:65532", folder=tmp_path / "docker"
    )
    served = Served(
        folder=tmp_path / RELEASE, enclave="server", port=8500, broker=("b", 1), size=SIZE, manifest="m"
    )  # fmt: skip
    container, replica = layout.replica(0, 0, served), described(deployment)
    assert (container.image, container.command, container.devices) == (replica.image, replica.command, replica.devices)
    mounted = {mount.target: mount.read_only for mount in container.mounts}
    in_memory = {mount.target: mount.size for mount in container.tmpfs}
    assert mounted.keys() | in_memory.keys() == {mount.target for mount in replica.mounts}
    for mount in replica.mounts:
        if mount.target in mounted:
            assert mounted[mount.target] is mount.read_only
        else:
            assert in_memory[mount.target] == mount.size > 0


@pytest.mark.parametrize("platform", ["simulated", "sgx"])
def test_kubernetes_translates_the_whole_description(platform: str) -> None:
    layout = make_context("", platform=platform)
    (made,) = [item for item in replicas(layout) if item["kind"] == "Deployment"]
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    replica = describe_replica(
        layout.deployment,
        release=layout.shipped.name,
        size=layout.shipped.size,
        enclave="server",
        port=8500,
        attempts=1,
    )
    assert (container["image"], tuple(container["args"])) == (replica.image, replica.command)
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == replica.ports
    paths = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert paths.keys() == {
        str(PurePosixPath(mount.target).parent) if mount.content is Content.RELEASE else mount.target
        for mount in replica.mounts
    }
    assert set(paths.values()) <= {volume["name"] for volume in pod["volumes"]}


def test_only_an_enclave_on_sgx_opens_a_device(tmp_path: Path) -> None:
    simulated, sgx = (
        described(make_site(tmp_path / platform, platform=platform).deployment) for platform in ("simulated", "sgx")
    )
    assert (simulated.devices, sgx.devices) == ((), (ENCLAVE_DEVICE,))
    assert Content.MEMORY not in {mount.content for mount in sgx.mounts}
    (memory,) = [mount for mount in simulated.mounts if mount.content is Content.MEMORY]
    assert memory.size > SIZE


def test_gramine_direct_runs_in_the_image_with_gramine(tmp_path: Path) -> None:
    direct = described(make_site(tmp_path / "site", platform="gramine-direct").deployment)

    assert "-server-gramine:" in direct.image
    quoting = ("--quoting-socket", "/run/sealserve-simulated/quoting.sock")
    assert direct.command[-4:] == (*quoting, "--platform", "gramine-direct")
    assert direct.devices == ()
    assert Content.MEMORY not in {mount.content for mount in direct.mounts}
    (release,) = [mount for mount in direct.mounts if mount.content is Content.RELEASE]
    assert not release.read_only, "Gramine opens encrypted files for writing"


def test_rest_is_a_port_of_the_replica_where_the_enclave_has_it(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    made = describe_replica(site.deployment, release=RELEASE, size=SIZE, enclave="server", port=8500, rest_port=8501)
    assert made.ports == {"grpc": 8500, "rest": 8501}
    assert described(site.deployment).ports == {"grpc": 8500}
