"""What the local target refuses before it starts anything."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.bundle import read_bundle
from sealserve.cluster import ports
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import LocalTarget
from sealserve.cluster.owner_services import own_command
from sealserve.cluster.processes import Process, start_time
from sealserve.errors import PortTakenError
from sealserve.ingress.nginx_config import Upstream


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path / "site")
    made.import_model()
    made.certify()
    return made


def test_another_release_that_runs_is_not_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    running, other = site.build_release().folder, site.build_release().folder
    target = LocalTarget(site.workspace, site.deployment)
    (site.workspace.host.run / "release").write_text(running.name)
    process = Process(
        role="replica-0", pid=os.getpid(), started=start_time(os.getpid()) or 0, port=None, log=os.devnull
    )
    monkeypatch.setattr(LocalTarget, "replicas", lambda _: [process])
    with raises(ClusterCode.TARGET_BUSY, match=f"{running.name} runs, and this is {other.name}") as caught:
        target.check(other, broker_here=True)
    with raises(ClusterCode.TARGET_BUSY):
        target.up(read_bundle(other, []), 1)
    assert caught.value.code == "target.busy"
    assert target.status() == []


def test_only_the_owners_own_releases_are_started(site: Site, tmp_path: Path) -> None:
    release = site.build_release().folder
    elsewhere = release.rename(tmp_path / release.name)
    with raises(ClusterCode.TARGET_FOREIGN_RELEASE, match="is not one of the workspace's own releases") as caught:
        LocalTarget(site.workspace, site.deployment).check(elsewhere, broker_here=True)
    assert caught.value.code == "target.foreign-release"


def test_no_module_of_the_current_folder_is_run(site: Site, tmp_path: Path) -> None:
    (tmp_path / "base64.py").write_text("open('started', 'w')")
    command = own_command(site.workspace, ["status"])
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert not (tmp_path / "started").exists()


def test_what_serves_already_is_not_said_to_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    process = Process(
        role="replica-0", pid=os.getpid(), started=start_time(os.getpid()) or 0, port=None, log=os.devnull
    )
    target = LocalTarget(site.workspace, site.deployment, tell=told.append)
    monkeypatch.setattr("sealserve.cluster.local._serves", lambda _: True)
    target.wait_replica(process)
    assert told == []
    answers = iter([False, True, True])
    monkeypatch.setattr("sealserve.cluster.local._serves", lambda _: next(answers))
    target.wait_replica(process)
    assert told == ["replica-0 attests itself, opens the release and loads the model"]


def test_an_enclave_keeps_its_port_while_that_is_free(site: Site) -> None:
    release = site.build_release().folder
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        taken, free = listener.getsockname()[1], ports.find_free()
        listener.listen()
        site.build_enclave(release, name="replica-0", port=taken)
        site.build_enclave(release, name="replica-1", port=free)
        places = LocalTarget(site.workspace, site.deployment).destination(release.name, 3).enclaves
    assert [place.name for place in places] == ["replica-0", "replica-1", "replica-2"]
    assert places[1].port == free
    assert len({taken, *(place.port for place in places)}) == 4
    assert not any(place.in_use for place in places)


@pytest.mark.parametrize(("listen", "shown"), [("127.0.0.1", "127.0.0.1:8500"), ("::1", "[::1]:8500")])
def test_an_address_is_shown_as_people_write_it(tmp_path: Path, listen: str, shown: str) -> None:
    site = make_site(tmp_path / "v", service={"listen": listen})
    nginx = Process(role="nginx", pid=os.getpid(), started=start_time(os.getpid()) or 0, port=8500, log=os.devnull)
    target = LocalTarget(site.workspace, site.deployment)
    target._registry.add(nginx)
    assert target.status()[0].detail.endswith(f" at {shown}")


def test_a_replica_with_rest_has_two_ports_that_no_other_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path / "site", server={"rest": True})
    taken = {20_001}  # the port beside 20000
    found = iter([20_000, 21_000, 21_001, 20_999, 21_002])
    monkeypatch.setattr(ports, "find_free", lambda: next(found))
    monkeypatch.setattr(ports, "is_free", lambda port: port not in taken)
    places = LocalTarget(site.workspace, site.deployment).destination("release", 2).enclaves
    assert [place.port for place in places] == [21_000, 21_002]


def test_nginx_forwards_rest_to_the_replicas_that_have_it(tmp_path: Path) -> None:
    """A replica of a release without REST may run beside those with it."""
    site = make_site(tmp_path / "site", server={"rest": True}, service={"rest_port": 9501})
    started = start_time(os.getpid()) or 0
    old, new = (
        Process(role=f"replica-{n}", pid=os.getpid(), started=started, port=port, rest_port=rest, log=os.devnull)
        for n, (port, rest) in enumerate([(21_000, None), (21_002, 21_003)])
    )
    target = LocalTarget(site.workspace, site.deployment)
    config = target._nginx([old, new]).config
    assert config.rest is not None
    assert (config.rest.port, config.rest.upstreams) == (9501, [Upstream("127.0.0.1", 21_003)])
    assert config.ports == (site.deployment.service.port, 9501)
    assert target._nginx([old]).config.ports == (site.deployment.service.port,)


def test_a_taken_port_for_rest_is_named_by_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        service = {"rest_port": port, "port": ports.find_free()}
        site = make_site(tmp_path / "site", server={"rest": True}, service=service)
        with raises(PortTakenError, match=rf"Port {port} at 127.0.0.1, for NGINX \(service.rest_port\), is taken"):
            LocalTarget(site.workspace, site.deployment)._refuse_taken_ports()
