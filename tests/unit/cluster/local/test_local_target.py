"""The local target without starting processes: checks, ports, phases of a roll-out, and the difference."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.bundle import Bundle, EnclaveFacts, read_bundle
from sealserve.cluster import ports, targets
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import owner_services
from sealserve.cluster.local.owner_services import registry
from sealserve.cluster.local.part_commands import own_command, role_of
from sealserve.cluster.local.processes import Phase, Process, Registry
from sealserve.cluster.local.replicas import LocalReplicas
from sealserve.cluster.local.target import LocalTarget
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.cluster.target import DRAIN_SECONDS, quietly
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.measurement import connection_age_of, load_enclave
from sealserve.enclave.server_command import CHANNEL_FLAG
from sealserve.errors import PortTakenError
from sealserve.ingress.nginx import Nginx
from sealserve.ingress.nginx_config import Upstream
from sealserve.process_signal import start_time
from sealserve.terms import RuntimeKind


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path / "site")
    made.import_model()
    made.certify()
    return made


def test_only_the_owners_own_releases_are_started(site: Site, tmp_path: Path) -> None:
    release = site.build_release().folder
    elsewhere = release.rename(tmp_path / release.name)
    with raises(ClusterCode.TARGET_FOREIGN_RELEASE, match="is not a release of this workspace") as caught:
        LocalTarget(site.workspace, site.deployment).check(elsewhere, broker_here=True)
    assert caught.value.code == "target.foreign-release"


def test_no_module_of_the_current_folder_is_run(site: Site, tmp_path: Path) -> None:
    (tmp_path / "base64.py").write_text("open('started', 'w')")
    command = own_command(site.workspace, ["status"])
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert not (tmp_path / "started").exists()


def test_the_start_of_a_serving_replica_is_not_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    process = Process(
        role="replica-0", pid=os.getpid(), started=start_time(os.getpid()) or 0, port=None, log=os.devnull
    )
    target = LocalTarget(site.workspace, site.deployment, tell=told.append)
    monkeypatch.setattr("sealserve.cluster.local.replicas.serves", lambda _: True)
    target.wait_replica(process)
    assert told == []
    answers = iter([False, True, True])
    monkeypatch.setattr("sealserve.cluster.local.replicas.serves", lambda _: next(answers))
    target.wait_replica(process)
    assert told == ["replica-0 attests itself, opens the release and loads the model"]


def test_gramine_direct_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path / "site", platform="gramine-direct")
    target = LocalTarget(site.workspace, site.deployment)
    monkeypatch.setenv("PATH", "/none")
    with raises(EnclaveCode.GRAMINE_LOADER_MISSING, match="gramine-direct is not installed") as caught:
        target.check(site.workspace.owner.releases / "any", broker_here=True)
    assert "gramine.readthedocs.io" in (caught.value.hint or "")


def test_gramine_direct_starts_replicas_in_gramine(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry starts the command that `enclave run` needs, and a later `up` recognizes the process."""
    release = ready.build_release().folder
    ready.build_enclave(release, name="replica-0", port=ports.find_free())
    started: list[list[str]] = []

    def start(_registry: object, role: str, command: list[str], **_: object) -> Process:
        started.append(command)
        return Process(role=role, pid=os.getpid(), started=0, port=None, log=os.devnull)

    monkeypatch.setattr(Registry, "start", start)
    replicas = LocalReplicas(ready.workspace, tell=quietly, runtime=RuntimeKind.GRAMINE_DIRECT)
    replicas.start(Bundle(folder=release, size=0, enclaves=()), 0)

    (command,) = started
    assert command[command.index("--platform") + 1] == "gramine-direct"
    assert role_of(command, ready.workspace) == "replica-0"


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
    taken = {20_001}  # the port after 20000
    found = iter([20_000, 21_000, 21_001, 20_999, 21_002])
    monkeypatch.setattr(ports, "find_free", lambda: next(found))
    monkeypatch.setattr(ports, "is_free", lambda port: port not in taken)
    places = LocalTarget(site.workspace, site.deployment).destination("release", 2).enclaves
    assert [place.port for place in places] == [21_000, 21_002]


def test_nginx_forwards_rest_to_the_replicas_that_have_it(tmp_path: Path) -> None:
    """A replica of a release without REST may run next to replicas with REST."""
    site = make_site(tmp_path / "site", server={"rest": True}, service={"rest_port": 9501})
    started = start_time(os.getpid()) or 0
    old, new = (
        Process(role=f"replica-{n}", pid=os.getpid(), started=started, port=port, rest_port=rest, log=os.devnull)
        for n, (port, rest) in enumerate([(21_000, None), (21_002, 21_003)])
    )
    target = LocalTarget(site.workspace, site.deployment)
    config = target._front.nginx([old, new]).config
    assert config.rest is not None
    assert (config.rest.port, config.rest.upstreams) == (9501, [Upstream("127.0.0.1", 21_003)])
    assert config.ports == (site.deployment.service.port, 9501)
    assert target._front.nginx([old]).config.ports == (site.deployment.service.port,)


def test_a_taken_port_for_rest_is_named_by_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        service = {"rest_port": port, "port": ports.find_free()}
        site = make_site(tmp_path / "site", server={"rest": True}, service=service)
        with raises(PortTakenError, match=rf"Port {port} at 127.0.0.1, for NGINX \(service.rest_port\), is in use"):
            LocalTarget(site.workspace, site.deployment)._refuse_taken_ports(owner_here=True, rest=True)


def replica(index: int, release: str, phase: Phase = Phase.CURRENT, *, port: int = 12000, pid: int = 0) -> Process:
    pid = pid or os.getpid()
    return Process(
        role=f"replica-{index}", pid=pid, started=start_time(pid) or 0, port=port + index, log=os.devnull,
        release=release, phase=phase,
    )  # fmt: skip


def test_an_enclave_of_another_release_is_not_in_use(site: Site) -> None:
    release = site.build_release().folder
    target = LocalTarget(site.workspace, site.deployment)
    site.build_enclave(release, name="replica-0", port=12000)
    target._registry.add(replica(0, "another-release"))
    assert not target.destination(release.name, 1).enclaves[0].in_use
    target._registry.add(replica(0, release.name, Phase.LEAVING))
    assert not target.destination(release.name, 1).enclaves[0].in_use
    target._registry.add(replica(0, release.name, Phase.NEXT))
    place = target.destination(release.name, 1).enclaves[0]
    assert (place.in_use, place.port) == (True, 12000)


def test_replicas_of_a_roll_out_keep_their_role(site: Site) -> None:
    target = LocalTarget(site.workspace, site.deployment)
    for found in (replica(0, "old-1"), replica(0, "new-2", Phase.NEXT), replica(0, "older-0", Phase.LEAVING)):
        target._registry.add(found)
    assert [part.role for part in target.status()] == ["replica-0"] * 3
    assert [part.release for part in target.status()] == ["old-1", "new-2", "older-0"]
    assert [process.release for process in target.replicas()] == ["old-1"]
    assert target.release() == "old-1"


def test_a_roll_out_changes_all_phases_in_one_write(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(subprocess.Popen(["sleep", "60"])) for _ in range(2)]
        for child in pids:
            stack.callback(child.kill)
        old, new = replica(0, "old-1", pid=pids[0].pid), replica(0, "new-2", Phase.NEXT, pid=pids[1].pid)
        replicas = LocalReplicas(site.workspace, tell=quietly)
        record = registry(site.workspace)
        record.add(old)
        record.add(new)
        assert set(record.all()) == {"replica-0", "replica-0-next"}
        replicas.move([([old], Phase.LEAVING), ([new], Phase.CURRENT)])
        found = record.all()
        assert set(found) == {"replica-0", f"replica-0-leaving-{old.pid}"}
        assert found["replica-0"].release == "new-2"


def test_undoing_a_failed_start_does_not_stop_leaving_replicas(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaving replica may still have connections. It ran before the command under a different name."""
    record = registry(site.workspace)
    for found in (replica(0, "new-2"), replica(0, "old-1", Phase.LEAVING), replica(1, "new-2", Phase.NEXT)):
        record.add(found)
    stopped: list[str] = []

    def stop(_workspace: object, *names: str, **_more: object) -> list[str]:
        stopped.extend(names)
        return []

    monkeypatch.setattr(owner_services, "stop_roles", stop)
    targets.undo(site.workspace, ["replica-0"])
    assert stopped == ["replica-1-next"]


def test_the_release_before_is_remembered(site: Site) -> None:
    target = LocalTarget(site.workspace, site.deployment)
    record = ReleaseRecord(site.workspace)
    for call in (target.previous_release, target.release):
        with raises(ClusterCode.TARGET_NOT_UP):
            call()
    record.serve("a-1")
    record.serve("a-1")
    with raises(ClusterCode.TARGET_NOT_UP, match="no other release was served before"):
        target.previous_release()
    record.serve("b-2")
    assert (target.release(), target.previous_release()) == ("b-2", "a-1")
    record.serve("a-1")
    assert target.previous_release() == "b-2"
    # A roll-out to c-3 was killed before it wrote the record.
    target._registry.add(replica(0, "c-3"))
    assert (target.release(), target.previous_release()) == ("c-3", "a-1")
    # A different user may have written the record, so a name is never a path.
    (site.workspace.host.run / "release").write_bytes(b"\xff\n../../../etc/x-9\nmore\n")
    assert target.previous_release() in {"x-9", "\ufffd"}


def test_the_difference_names_release_parts_and_ports(site: Site) -> None:
    release = site.build_release().folder
    target = LocalTarget(site.workspace, site.deployment)
    free = ports.find_free()
    site.build_enclave(release, name="replica-0", port=free)
    bundle = Bundle(
        folder=release, size=1,
        enclaves=tuple(EnclaveFacts(name=f"replica-{index}", port=free + index, broker=("b", 1), memory=1, manifest="")
                       for index in range(2)),
    )  # fmt: skip
    target._registry.add(replica(0, "old-1"))
    lines = target.difference(bundle, 2).splitlines()
    assert {"-release: old-1", f"+release: {release.name}", "-replica-0: port 12000"} <= set(lines)
    assert f"+replica-0: port {free}" in lines
    assert "+replica-1: a free port" in lines  # the build chooses the port
    assert f"+nginx: port {site.deployment.service.port}" in lines
    assert any(line.startswith(f"+        server 127.0.0.1:{free} ") for line in lines)
    assert any(line.startswith("+        server 127.0.0.1:(a free port) ") for line in lines)
    assert not (site.workspace.host.run / "nginx").exists()


def test_leaving_replicas_drain_at_the_age_of_their_release(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter age in sealserve.toml does not apply to the leaving enclaves, whose age is measured."""
    ages = {0: 600, 1: None}
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        record = registry(site.workspace)
        for index, age in ages.items():
            record.add(replace(replica(index, "old-1", Phase.LEAVING, pid=child.pid), connection_age=age))
        told: list[str] = []
        target = LocalTarget(site.workspace, site.deployment, tell=told.append)
        timeouts: list[float] = []

        def wait_drained(_self: Nginx, *, timeout: float) -> bool:
            timeouts.append(timeout)
            return False

        monkeypatch.setattr(Nginx, "wait_drained", wait_drained)
        target._finish_leaving()
        assert timeouts == [660 + DRAIN_SECONDS]
        assert f"closing connections that are still open after {660 + DRAIN_SECONDS} s, with their replicas" in told
    assert record.all() == {}


def test_nginx_keeps_connections_as_long_as_the_replicas_before_it_do(site: Site) -> None:
    target = LocalTarget(site.workspace, site.deployment)
    described = site.deployment.server.max_connection_age_seconds
    assert target._front.nginx([replica(0, "old-1")]).config.drain_timeout == described * 11 // 10 + DRAIN_SECONDS
    both = [replace(replica(index, "old-1"), connection_age=age) for index, age in enumerate([30, 601])]
    assert target._front.nginx(both).config.drain_timeout == 662 + DRAIN_SECONDS
    assert target._front.nginx(both[:1]).config.drain_timeout == 33 + DRAIN_SECONDS


def test_the_age_of_connections_is_read_from_the_enclave(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", server={"max_connection_age_seconds": 600})
    site.import_model()
    site.certify()
    release = site.build_release().folder
    site.build_enclave(release, name="replica-0", port=12000)
    assert [enclave.connection_age for enclave in read_bundle(release, ["replica-0"]).enclaves] == [600]
    manifest = load_enclave(release, "replica-0").manifest
    for given in ("", "grpc.max_connection_age_ms=", "grpc.max_connection_age_ms=x"):
        argv = [flag for flag in manifest.loader.argv if not flag.startswith(CHANNEL_FLAG)] + [CHANNEL_FLAG + given]
        other = manifest.model_copy(update={"loader": manifest.loader.model_copy(update={"argv": tuple(argv)})})
        assert connection_age_of(other) is None


def test_the_running_replicas_decide_whether_rest_is_an_endpoint(tmp_path: Path) -> None:
    """A changed setting in sealserve.toml applies only to the next release."""
    for described in (True, False):
        site = make_site(tmp_path / f"site-{described}", server={"rest": described}, service={"rest_port": 9501})
        target = LocalTarget(site.workspace, site.deployment)
        assert ("rest" in target.endpoints()) is described  # nothing runs
        target._registry.add(replica(0, "old-1"))
        assert set(target.endpoints()) == {"grpc"}
        target._registry.add(replace(replica(0, "old-1"), rest_port=12001))
        assert target.endpoints()["rest"].endswith(":9501")


def test_an_enclave_that_is_to_be_built_has_the_port_for_rest_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enclaves of a release with REST are built with REST, even if sealserve.toml has turned REST off since."""
    site = make_site(tmp_path / "site", server={"rest": False})
    found = iter([20_000, 21_000, 21_001, 21_002])
    monkeypatch.setattr(ports, "find_free", lambda: next(found))
    monkeypatch.setattr(ports, "is_free", lambda port: port != 20_001)
    places = LocalTarget(site.workspace, site.deployment).destination("release", 2).enclaves
    assert [place.port for place in places] == [21_000, 21_002]


@pytest.mark.parametrize("with_rest", [True, False])
def test_an_enclave_that_exists_needs_the_ports_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_rest: bool
) -> None:
    site = make_site(tmp_path / "site", server={"rest": with_rest}, service={"rest_port": 9501})
    site.import_model()
    site.certify()
    release = site.build_release().folder
    site.build_enclave(release, name="replica-0", port=12000)
    other = site.deployment.model_copy(
        update={"server": site.deployment.server.model_copy(update={"rest": not with_rest})}
    )
    target = LocalTarget(site.workspace, other)
    monkeypatch.setattr(ports, "is_free", lambda port: port not in {9501, 12001})
    monkeypatch.setattr(ports, "find_free", lambda: 21_000)
    place = target.destination(release.name, 1).enclaves[0]
    assert place.port == (21_000 if with_rest else 12000)
    with contextlib.ExitStack() as stack:  # NGINX needs a port for REST only if the release has REST
        if with_rest:
            stack.enter_context(raises(PortTakenError, match=r"service\.rest_port"))
        monkeypatch.setattr(ports, "require_free", refuse_rest)
        target.check(release, broker_here=True)


def refuse_rest(port: int, what: str, *_address: str) -> None:
    if port == 9501:
        raise PortTakenError(f"Port {port}, for {what}, is in use.")


def test_only_the_supervisor_starts_a_replica_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two nested supervisors, each would count failures separately, and neither would stop trying."""
    release = site.build_release().folder
    target = LocalTarget(site.workspace, site.deployment)
    site.build_enclave(release, name="replica-0", port=12000)
    target._registry.add(replica(0, release.name))
    commands: list[Sequence[str]] = []
    monkeypatch.setattr(Registry, "adopt", lambda _self, _process, command: commands.append(command))
    target.start_replica(read_bundle(release, ["replica-0"]), 0)
    [command] = commands
    assert command[command.index("--attempts") + 1] == "1"
