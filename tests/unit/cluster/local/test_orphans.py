"""The processes that `down` treats as remains of a workspace, and those that it must not stop."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import owner_services
from sealserve.cluster.local import target as local
from sealserve.cluster.local.orphans import find_orphans, require_no_orphans
from sealserve.cluster.local.part_commands import (
    nginx_folder,
    own_command,
    replica_command,
    role_of,
    service_command,
    supervisor_command,
)
from sealserve.cluster.local.processes import Process
from sealserve.cluster.local.target import LocalTarget
from sealserve.process_signal import start_time
from sealserve.terms import RuntimeKind
from sealserve.workspace import Workspace

_SLEEP = ["-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "model")
    workspace.directory.mkdir()
    workspace.create()
    return workspace


class Named:
    """Starts processes with the command line that a test defines."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, arguments: list[str], *, leads_session: bool = True) -> int:
        """Start a Python process with this command line, which sleeps. Return its process ID."""
        code = f"""
import ctypes, os, sys
if {leads_session}: os.setsid()
os.execv(sys.executable, {arguments!r})
"""
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment(),
        )
        self._started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        return child.pid

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self._stand_in)}

    _stand_in = Path()

    def use(self, folder: Path) -> None:
        """Make `python -m sealserve` and its supervisor sleep instead, with packages in ``folder``."""
        package = folder / "sealserve" / "cluster" / "local" / "supervision"
        package.mkdir(parents=True)
        for parent in (package, *package.parents):
            if parent != folder and parent.is_relative_to(folder):
                (parent / "__init__.py").touch()
        for path in ("sealserve/__main__.py", "sealserve/cluster/local/supervision/supervisor.py"):
            (folder / path).write_text(_SLEEP[1])
        self._stand_in = folder

    def end(self) -> None:
        """Stop all processes."""
        for child in self._started:
            child.kill()
            child.communicate()


@pytest.fixture
def named(tmp_path: Path) -> Iterator[Named]:
    made = Named()
    made.use(tmp_path / "stand-in")
    yield made
    made.end()


def commands(workspace: Workspace) -> dict[str, list[str]]:
    return {
        "pcs": service_command(workspace, "pcs"),
        "platform": service_command(workspace, "platform"),
        "broker": service_command(workspace, "broker"),
        "replica-3": replica_command(workspace, "replica-3", workspace.host.releases / "x", attempts=10),
        "replica-4": replica_command(
            workspace,
            "replica-4",
            workspace.host.releases / "x",
            attempts=1,
            runtime=RuntimeKind.GRAMINE_DIRECT,
        ),
        "supervisor": supervisor_command(workspace),
    }


def test_each_part_is_recognized_by_its_command(workspace: Workspace) -> None:
    assert {role: role_of(command, workspace) for role, command in commands(workspace).items()} == {
        role: role for role in commands(workspace)
    }


def test_a_link_to_the_folder_names_the_same_workspace(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(workspace.directory)
    for role, command in commands(Workspace(tmp_path / "link")).items():
        assert role_of(command, workspace) == role


@pytest.mark.parametrize("name", ["model-2", "mode", "model/nested", "other"])
def test_a_part_of_another_workspace_is_not_ours(workspace: Workspace, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for command in commands(Workspace(tmp_path / name)).values():
        assert role_of(command, workspace) is None


def test_a_command_that_only_resembles_a_part_is_not_a_part(workspace: Workspace) -> None:
    directory = str(workspace.directory)
    broker = service_command(workspace, "broker")
    replica = commands(workspace)["replica-3"]
    for command in (
        [],
        [""],
        ["--directory", directory],
        ["vi", *broker[1:]],
        ["/usr/bin/tail", *broker],
        [sys.executable, "/usr/bin/sealserve", *broker[4:]],  # started by a person or by systemd
        [sys.executable, "-P", "-m", "other", *broker[4:]],
        own_command(workspace, ["broker", "run"]),
        own_command(workspace, ["broker", "run", "--ready-file", "/tmp/ready"]),  # noqa: S108
        own_command(workspace, ["status"]),
        own_command(workspace, []),
        [*replica[:7], "replica-x", *replica[8:]],
        [*replica[:7], "../replica-0", *replica[8:]],
        [*broker[:-1], "relative"],
        [*broker[:-1], ""],
        [*broker[:-1], "\0"],
        [*broker, directory],
        [*supervisor_command(workspace)[:4], "extra", "--directory", directory],
    ):
        assert role_of(command, workspace) is None, command


def test_nginx_is_recognized_by_its_title(workspace: Workspace, tmp_path: Path) -> None:
    folder = nginx_folder(workspace)
    title = f"nginx: master process /usr/sbin/nginx -p {folder} -c {folder}/nginx.conf"
    assert role_of([title], workspace) == "nginx"
    assert role_of([f"{title} -e {workspace.host.logs}/nginx-error.log"], workspace) == "nginx"
    other = Workspace(tmp_path / "model-2")
    other.directory.mkdir()
    assert role_of([title], other) is None
    for wrong in (
        f"{title}.old",
        title.replace("master", "worker"),
        f"x{title}",
        f"{title} -e /x",
        "nginx: master process ",
    ):
        assert role_of([wrong], workspace) is None


def test_an_orphan_is_found_and_stopped_and_the_recorded_part_is_not(workspace: Workspace, named: Named) -> None:
    recorded, orphan = (named.start(service_command(workspace, "broker")) for _ in range(2))
    process = Process(role="broker", pid=recorded, started=start_time(recorded) or 0, port=None, log="")
    found = find_orphans(workspace, [process])
    assert [(part.role, part.pid) for part in found] == [("broker", orphan)]
    with raises(
        ClusterCode.PROCESS_ORPHANS, match=rf"are still running: broker \(pid {orphan}\)\. Stop them"
    ) as caught:
        require_no_orphans(workspace, [process])
    assert caught.value.code == "process.orphans"
    assert caught.value.hint == "Stop them with `sealserve down`. Then run this command again."
    owner_services.registry(workspace).add(process)
    told: list[str] = []
    assert owner_services.stop_orphans(workspace, tell=told.append) == [f"broker (pid {orphan}, of an earlier run)"]
    assert told == [f"stopping broker (pid {orphan}, of an earlier run)"]
    assert find_orphans(workspace, [process]) == []
    assert process.is_alive()


def test_a_lost_record_hides_nothing_from_down(workspace: Workspace, named: Named) -> None:
    pids = {role: named.start(command) for role, command in commands(workspace).items()}
    (workspace.host.run / "local.json").write_text("{")
    expected = {f"{role} (pid {pid}, of an earlier run)" for role, pid in pids.items()}
    assert set(local.running(workspace)) == expected
    assert set(local.stop_all(workspace)) == expected
    assert local.running(workspace) == []


def test_a_command_in_a_terminal_is_not_an_orphan(workspace: Workspace, named: Named) -> None:
    named.start(service_command(workspace, "broker"), leads_session=False)
    assert find_orphans(workspace, []) == []


def test_a_process_of_another_user_is_not_an_orphan(
    workspace: Workspace, named: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    named.start(service_command(workspace, "broker"))
    monkeypatch.setattr("sealserve.cluster.local.orphans.user_of", lambda _: os.geteuid() + 1)
    assert find_orphans(workspace, []) == []


def test_a_reused_process_id_is_not_an_orphan(
    workspace: Workspace, named: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    named.start(service_command(workspace, "broker"))
    monkeypatch.setattr("sealserve.cluster.local.orphans.facts_of", lambda _: None)
    assert find_orphans(workspace, []) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a PID namespace: run the tests as root")
def test_a_process_in_a_container_is_not_an_orphan(workspace: Workspace, named: Named) -> None:
    line = service_command(workspace, "broker")
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "setsid", *line],
        stdout=subprocess.PIPE, text=True, env=named._environment(),
    ) as container:  # fmt: skip
        assert container.stdout is not None
        assert container.stdout.readline() == "up\n"
        assert find_orphans(workspace, []) == []
        container.send_signal(signal.SIGKILL)


def test_up_names_the_orphan_and_the_fix(tmp_path: Path, named: Named) -> None:
    site: Site = make_site(tmp_path / "site")
    site.import_model()
    site.certify()
    release = site.build_release().folder
    orphan = named.start(service_command(site.workspace, "pcs"))
    target = LocalTarget(site.workspace, site.deployment)
    with raises(ClusterCode.PROCESS_ORPHANS, match=rf"pcs \(pid {orphan}"):
        target.check(release, broker_here=True)
    with raises(ClusterCode.PROCESS_ORPHANS, match=rf"pcs \(pid {orphan}"):
        target.services.require_free_ports()
    assert start_time(orphan) is not None
