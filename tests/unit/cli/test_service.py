"""`sealserve service`, with a stand-in for systemctl."""

import os
import stat
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import make_site

from sealserve.cluster.systemd import installation as systemd
from sealserve.cluster.systemd.installation import Systemd
from sealserve.cluster.systemd.units import MARKER, unit_name
from sealserve.terms import SystemdService
from sealserve.workspace import Workspace


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys, make_site(tmp_path / "site").directory)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    """A service manager that runs, and whose systemctl notes its arguments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ntest ! -e {tmp_path}/fail || {{ echo no >&2; exit 1; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    made = Systemd(units=tmp_path / "units", runtime=runtime)
    monkeypatch.setattr("sealserve.cli.service.system_manager", lambda: made)
    return made


def name(cli: CommandLine, service: SystemdService = SystemdService.BROKER) -> str:
    return unit_name(service, Workspace(cli.directory))


def calls(manager: Systemd) -> list[str]:
    return (manager.units.parent / "calls").read_text().splitlines()


def test_install_and_uninstall(cli: CommandLine, manager: Systemd) -> None:
    path = manager.units / name(cli)
    assert cli.json("service", "install", "broker") == {"name": path.name, "file": str(path)}
    assert path.read_text().startswith(MARKER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert calls(manager) == ["daemon-reload", f"enable {path.name}"]
    assert "Next: stop running parts" in cli.ok("service", "install", "broker")  # again is fine
    assert cli.json("service", "uninstall", "broker", "--yes") == {"name": path.name, "removed": True}
    assert not path.exists()
    assert calls(manager)[-2:] == [f"disable --now {path.name}", "daemon-reload"]
    assert cli.json("service", "uninstall", "broker", "--yes") == {"name": path.name, "removed": False}


def test_print_changes_nothing(cli: CommandLine, manager: Systemd) -> None:
    printed = cli.ok("service", "install", "deployment", "--print")
    assert printed.startswith(f"{MARKER}\n[Unit]\n")
    answer = cli.json("service", "install", "deployment", "--print", "--user")
    assert answer["name"] == name(cli, SystemdService.DEPLOYMENT)
    assert answer["unit"].endswith("WantedBy=default.target\n")
    assert not manager.units.exists()
    assert not (manager.units.parent / "calls").exists()


def test_a_unit_of_somebody_else_is_not_touched(cli: CommandLine, manager: Systemd) -> None:
    manager.units.mkdir()
    path = manager.units / name(cli)
    path.write_text("[Service]\nExecStart=/bin/true\n")
    for verb in (("install", "broker"), ("uninstall", "broker", "--yes")):
        error = cli.error("service", *verb)
        assert (error["code"], error["status"]) == ("service.foreign-file", 2)
        assert "did not write it" in error["message"]
    assert path.read_text() == "[Service]\nExecStart=/bin/true\n"
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert cli.error("service", "uninstall", "broker", "--yes")["code"] == "input-file.not-regular"
    assert path.is_symlink()


def test_no_systemd(cli: CommandLine, manager: Systemd) -> None:
    manager.runtime.rmdir()
    error = cli.error("service", "install", "broker")
    assert (error["code"], error["status"]) == ("service.no-systemd", 4)
    assert "systemd's service manager does not run" in error["message"]
    assert "--print" in error["hint"]
    assert not manager.units.exists()


def test_what_systemctl_refuses_is_told(cli: CommandLine, manager: Systemd) -> None:
    (manager.units.parent / "fail").touch()
    error = cli.error("service", "install", "broker")
    assert (error["code"], error["status"]) == ("service.systemctl", 4)
    assert error["message"] == "`systemctl daemon-reload` failed: no."


def test_only_the_local_target_needs_a_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CommandLine(capsys, make_site(tmp_path / "site", target={"kind": "docker"}).directory)
    error = cli.error("service", "install", "deployment", "--print")
    assert (error["code"], error["status"]) == ("target.unsupported", 2)
    assert "needs the target local, got docker" in error["message"]
    assert cli.ok("service", "install", "broker", "--print").startswith(MARKER)


def test_where_a_users_units_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert systemd.user_manager() == Systemd(
        units=tmp_path / "config" / "systemd" / "user", runtime=tmp_path / "run" / "systemd", options=("--user",)
    )
    assert systemd.system_manager().units == Path("/etc/systemd/system")
