"""Interpretation of the engine's answers for a deployment."""

import os
import socket
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises
from tests.harness.fake_docker import IMAGE, FakeDocker
from tests.harness.workspaces import make_site

from sealserve.cli.bundles import received
from sealserve.cluster import docker as target_module
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.docker.fleet import Fleet, project_name
from sealserve.cluster.docker.ownership import container_user
from sealserve.cluster.docker.parts import Attachment, Container, Network
from sealserve.cluster.docker.target import DockerTarget
from sealserve.cluster.logs.selection import LogSelection
from sealserve.cluster.presented_certificate import PresentedCertificate
from sealserve.cluster.target import State
from sealserve.containers.codes import ContainersCode
from sealserve.containers.engine import Engine, EngineRefusedError
from sealserve.errors import PortTakenError

ID = "c" * 64


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    folder = tmp_path / "fake-docker"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakeDocker(folder)


def described(role: str = "nginx", digest: str = "d", status: str = "running", **state: Any) -> dict[str, Any]:
    return {
        "Id": ID,
        "Name": f"/p-{role}",
        "Image": IMAGE["Id"],
        "RestartCount": 0,
        "Config": {"Labels": {"sealserve.project": "p", "sealserve.role": role, "sealserve.digest": digest}},
        "State": {"Status": status, "Pid": 7, **state},
        "NetworkSettings": {"Networks": {"p-link-4": {}, "bridge": {}}},
    }


def network() -> Network:
    return Network(name="link-0", subnet=IPv4Network("10.9.0.0/29"), internal=True)


CONTAINER = Container(
    name="nginx", role="nginx", image="front:1", networks=(Attachment(network="front", address="10.9.0.2"),),
    user="65532:65532", health="true",
)  # fmt: skip


def test_a_subnet_that_is_in_use(docker: FakeDocker) -> None:
    docker.answer("network inspect", err="Error: No such network: x\n", status=1)
    docker.answer("network create", err="Error response from daemon: Pool overlaps with other one\n", status=1)
    with raises(ClusterCode.DOCKER_SUBNET_TAKEN, match=r"subnet 10\.9\.0\.0/29 overlaps") as caught:
        Fleet(Engine(), "p").ensure_network(network())
    assert caught.value.code == "docker.subnet-taken"
    assert "docker.subnet" in str(caught.value.hint)


def test_an_existing_network_is_kept(docker: FakeDocker) -> None:
    docker.answer("network inspect p-link-0", [{"IPAM": {"Config": [{"Subnet": "10.9.0.0/29"}]}}])
    Fleet(Engine(), "p").ensure_network(network())
    assert len(docker.asked) == 1


def test_a_container_that_runs_as_described_is_kept(docker: FakeDocker) -> None:
    docker.answer("container ls", f"{ID}\n")
    docker.answer("container inspect", [described(digest=CONTAINER.digest)])
    docker.answer("image inspect front:1", [IMAGE])
    found = Fleet(Engine(), "p").ensure(CONTAINER)
    assert (found.name, found.role, found.pid, found.link) == ("p-nginx", "nginx", 7, None)
    assert not any(asked[1] in {"create", "stop"} for asked in docker.asked)


def test_another_image_of_the_same_name_replaces_it(docker: FakeDocker) -> None:
    docker.answer("container ls", f"{ID}\n")
    docker.answer("container inspect", [described(digest=CONTAINER.digest)])
    docker.answer("image inspect front:1", [{**IMAGE, "Id": "sha256:other"}])
    for done in ("container stop", "container rm", "container start"):
        docker.answer(done)
    docker.answer("container create", f"{ID}\n")
    Fleet(Engine(), "p").ensure(CONTAINER)
    assert [asked[1] for asked in docker.asked if asked[1] in {"stop", "rm", "create", "start"}] == [
        "stop", "rm", "create", "start",
    ]  # fmt: skip


def test_only_an_image_of_a_registry_is_pulled(docker: FakeDocker) -> None:
    docker.answer("image inspect", err="Error: No such image: x\n", status=1)
    docker.answer("pull", err="Error response from daemon: no route to host\n", status=1)
    with raises(ContainersCode.IMAGE_MISSING, match="no image front:1"):
        Fleet(Engine(), "p").start(CONTAINER)
    assert not any(asked[0] == "pull" for asked in docker.asked)
    with pytest.raises(EngineRefusedError, match="no route to host"):
        Fleet(Engine(), "p").start(replace(CONTAINER, image="r.example:5000/front:1"))


def test_a_container_that_cannot_start_is_not_left(docker: FakeDocker) -> None:
    docker.answer("image inspect", [IMAGE])
    docker.answer("container create", f"{ID}\n")
    docker.answer(
        "container start", err="Error response from daemon: driver failed: port is already allocated\n", status=1
    )
    docker.answer("container rm")
    with pytest.raises(Exception, match="port is already allocated"):
        Fleet(Engine(), "p").start(CONTAINER)
    assert docker.asked[-1] == ["container", "rm", "--force", "--volumes", ID]


def test_the_error_for_an_ended_container_has_its_reason(docker: FakeDocker) -> None:
    docker.answer("container inspect", [described("replica-0", status="exited")])
    docker.answer("container exec", err="Error response from daemon: is not running\n", status=1)
    docker.answer("logs", "starting\nerror[broker.refused]: no key for you\nbye\n")
    fleet = Fleet(Engine(), "p")
    replica = fleet._running(described("replica-0"))
    with raises(
        ClusterCode.CONTAINER_ENDED, match=r"replica-0 ended before it was ready: error\[broker\.refused\]: no key"
    ) as caught:
        fleet.wait(replica, seconds=5)
    assert caught.value.code == "container.ended"


def test_a_container_that_is_not_ready(docker: FakeDocker) -> None:
    docker.answer("container inspect", [described()])
    docker.answer("container exec", status=1)
    fleet = Fleet(Engine(), "p")
    with raises(ClusterCode.CONTAINER_NOT_READY, match="nginx was not ready within 0 s") as caught:
        fleet.wait(fleet._running(described()), seconds=0.01)
    assert caught.value.code == "container.not-ready"
    assert "docker logs p-nginx" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("error", "state"), [("refused", State.REFUSED), ("unreachable", State.STARTING)], ids=["refused", "waits"]
)
def test_a_replica_that_starts_again_and_again(docker: FakeDocker, tmp_path: Path, error: str, state: State) -> None:
    site = make_site(tmp_path / "site")
    docker.answer("container ls", "a\n")
    docker.answer("container inspect", [described("replica-0", status="restarting")])
    docker.answer("logs", f"starting\nerror[provisioning.{error}]: The broker says no, or nothing.\n")
    (part,) = DockerTarget(site.workspace, site.deployment).status()
    assert part.state is state
    assert part.error.startswith(f"error[provisioning.{error}]")


def test_status_and_logs(docker: FakeDocker, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    docker.answer("container ls", "a b\n")
    docker.answer("container inspect a", [described("replica-1", Health={"Status": "healthy"})])
    docker.answer("container inspect b", [described("broker", status="exited")])
    valid = "certificate_from=2026-11-29T10:00:00Z certificate_until=2026-11-30T10:00:00Z"
    key = f"INFO step=key key_name=release bytes=16 {valid}"
    docker.answer("logs", f"{key}\ntwo\n")
    target = DockerTarget(site.workspace, site.deployment)
    parts = {part.role: part for part in target.status()}
    assert list(parts) == ["replica-1", "broker"]
    assert (parts["replica-1"].state, parts["broker"].state) == (State.SERVING, State.ENDED)
    assert parts["broker"].error == "it ended with exit status 0"
    assert parts["replica-1"].certificate == PresentedCertificate(
        issued=datetime(2026, 11, 29, 10, tzinfo=UTC), ends=datetime(2026, 11, 30, 10, tzinfo=UTC)
    )
    assert parts["broker"].certificate is None
    assert [line.text for line in target.logs("broker", LogSelection(last=5))] == [key, "two"]
    with pytest.raises(Exception, match="No log of pcs exists"):
        target.logs("pcs", LogSelection(last=1))


def test_nothing_to_scale(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answer("container ls")
    site = make_site(tmp_path / "site")
    with raises(ClusterCode.TARGET_NOT_UP, match="no replicas to scale"):
        DockerTarget(site.workspace, site.deployment).to_scale(2)
    assert target_module.running(site.workspace) == []


def test_a_port_that_only_a_new_nginx_needs_must_be_free(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answer("version", "20.10.24\n")
    docker.answer("container ls", f"{ID}\n")
    with socket.create_server(("127.0.0.1", 0)) as grpc_port, socket.create_server(("127.0.0.1", 0)) as rest_port:
        service, rest = grpc_port.getsockname()[1], rest_port.getsockname()[1]
        site = make_site(
            tmp_path / "site",
            service={"port": service, "rest_port": rest, "listen": "127.0.0.1"},
            server={"rest": True},
        )
        target = DockerTarget(site.workspace, site.deployment)

        def nginx(status: str, *published: int) -> None:
            bindings = {f"{8500 + index}/tcp": [{"HostPort": str(port)}] for index, port in enumerate(published)}
            docker.answers.clear()
            docker.answer("version", "20.10.24\n")
            docker.answer("container ls", f"{ID}\n")
            docker.answer("container inspect", [{**described(status=status), "HostConfig": {"PortBindings": bindings}}])

        nginx("running", service)
        with pytest.raises(PortTakenError, match=r"NGINX \(service\.rest_port\), is in use"):
            target.check(tmp_path, broker_here=True)
        nginx("running", service, rest)
        target.check(tmp_path, broker_here=True)
        nginx("restarting", service, rest)
        target.check(tmp_path, broker_here=True)
        nginx("exited", service, rest)  # it holds no port: a different program does
        with pytest.raises(PortTakenError, match=r"NGINX \(service\.port\), is in use"):
            target.check(tmp_path, broker_here=True)
    assert not any(asked[1] in {"stop", "rm", "create"} for asked in docker.asked)


def test_sgx_needs_the_device(docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.answer("version", "20.10.24\n")
    monkeypatch.setattr("sealserve.cluster.docker.target.ENCLAVE_DEVICE", str(tmp_path / "no-device"))
    site = make_site(tmp_path / "site", platform="sgx")
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="platform = 'sgx'") as caught:
        DockerTarget(site.workspace, site.deployment).check(tmp_path, broker_here=True)
    assert "doctor host" in str(caught.value.hint)


def test_a_host_needs_an_enclave_that_was_built_for_containers(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answer("version", "20.10.24\n")
    site = make_site(tmp_path / "site")
    site.import_model()
    site.certify()
    release = site.build_release().folder
    target = DockerTarget(site.workspace, site.deployment)
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="has no enclave"):
        target.up(received(site.workspace, release, target.destination(release.name, 1)), 1)
    site.build_enclave(release)  # with broker.address = 127.0.0.1
    with raises(ClusterCode.TARGET_UNSUPPORTED, match=r"at the IP address 127\.0\.0\.1; containers") as caught:
        target.up(received(site.workspace, release, target.destination(release.name, 1)), 1)
    assert "DNS name" in str(caught.value.hint)


@pytest.mark.usefixtures("docker")
def test_each_workspace_has_a_project_and_a_user(tmp_path: Path) -> None:
    sites = [make_site(tmp_path / name) for name in ("a", "b")]
    assert len({project_name(site.workspace) for site in sites}) == 2
    own = f"{os.getuid()}:{os.getgid()}"
    assert container_user(sites[0].workspace) == ("65532:65532" if os.getuid() == 0 else own)
