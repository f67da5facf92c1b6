"""Ctrl-C while a deployment is changed: the first one stops the started parts, and a second one waits for that."""

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.cli import down, scale, up
from sealserve.cluster import targets
from sealserve.cluster.local.processes import Phase, ProcessEndedError
from sealserve.cluster.target import PartStatus, quietly


class Impatient:
    """A target whose work is interrupted, and whose undoing is interrupted as well."""

    def __init__(self, running: Sequence[str]) -> None:
        self.parts = list(running)
        self.undone: list[str] = []

    def check(self, _release: Path, *, broker_here: bool) -> None:
        assert broker_here

    def destination(self, _release: str, _replicas: int) -> None:
        """It has none: `bundle_for` is replaced as well."""

    def up(self, _bundle: object, replicas: int) -> None:
        self.parts += [f"replica-{index}" for index in range(replicas)]
        signal.raise_signal(signal.SIGINT)

    def to_scale(self, _replicas: int) -> None:
        """A bundle is not needed."""

    def scale(self, replicas: int, _bundle: object) -> None:
        self.up(None, replicas)

    def status(self) -> Sequence[PartStatus]:
        raise AssertionError("it was interrupted")

    def running(self, _workspace: object) -> Sequence[str]:
        return tuple(self.parts)

    def stop_all(self, _workspace: object, *, tell: Callable[[str], None] = quietly) -> Sequence[str]:
        tell("stopping")
        signal.raise_signal(signal.SIGINT)
        self.undone, self.parts = self.parts, []
        return self.undone


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], Impatient]:
    def put(running: Sequence[str]) -> Impatient:
        target = Impatient(running)
        assert {scale.scale, down.down, up.up}  # imported by now, so that nothing here is bound for good
        monkeypatch.setattr(targets, "open_target", lambda *_args, **_more: target)
        monkeypatch.setattr("sealserve.cli.up.bundle_for", lambda *_args, **_more: None)
        monkeypatch.setattr(scale, "open_target", lambda *_args, **_more: target)
        monkeypatch.setattr(targets, "running", target.running)
        monkeypatch.setattr(targets, "stop_all", target.stop_all)
        return target

    return put


@pytest.mark.parametrize("verb", [("up", "--replicas", "2"), ("scale", "2")])
def test_what_was_started_is_stopped_again(
    cli: CommandLine, ready: Site, impatient: Callable[[Sequence[str]], Impatient], verb: tuple[str, ...]
) -> None:
    ready.build_release()
    target = impatient([])
    result = cli(*verb)
    assert result.status == 130
    assert target.undone == ["replica-0", "replica-1"]
    assert result.err.endswith("Interrupted. Stopped the parts that had started: replica-0, replica-1.\n")


def test_what_ran_before_goes_on(
    cli: CommandLine, ready: Site, impatient: Callable[[Sequence[str]], Impatient]
) -> None:
    ready.build_release()
    target = impatient(["broker"])
    result = cli("up", "--replicas", "1")
    assert result.status == 130
    assert target.parts == ["broker", "replica-0"]
    assert result.err.endswith("Interrupted. Parts that ran before still run: `sealserve status` shows them.\n")


def test_a_target_where_nothing_could_be_started_is_forgotten(
    cli: CommandLine, ready: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready.build_release()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    assert cli.error("up", "--target", "docker")["status"] == 4
    assert targets.in_use(ready.workspace) is None
    assert cli("status").out == "State      down\n! The deployment is not running. Start it: `sealserve up`.\n"
    assert cli.ok("down") == "Nothing to stop.\n"


def test_down_says_what_is_left(cli: CommandLine, ready: Site, impatient: Callable[[Sequence[str]], Impatient]) -> None:
    assert ready.workspace.root.exists()
    impatient(["broker", "nginx"])
    result = cli("down", "--yes")
    assert result.status == 130
    assert result.err.endswith("Interrupted. Parts that still run: broker, nginx. Stop them: `sealserve down`.\n")


class Failing(Impatient):
    """A target one of whose parts does not start."""

    error: Exception = ProcessEndedError("replica-0 ended before it was ready: error[test]", hint="Its log: x")

    def up(self, _bundle: object, replicas: int) -> None:
        self.parts += ["broker", *(f"replica-{index}" for index in range(replicas))]
        raise self.error

    def stop_all(self, _workspace: object, *, tell: Callable[[str], None] = quietly) -> Sequence[str]:
        tell("stopping")
        self.undone, self.parts = self.parts, []
        return self.undone


@pytest.fixture
def failing(impatient: Callable[[Sequence[str]], Impatient], monkeypatch: pytest.MonkeyPatch) -> Failing:
    impatient([])
    target = Failing([])
    monkeypatch.setattr(targets, "open_target", lambda *_args, **_more: target)
    monkeypatch.setattr(targets, "running", target.running)
    monkeypatch.setattr(targets, "stop_all", target.stop_all)
    return target


def test_what_a_failed_start_left_is_stopped_again(cli: CommandLine, ready: Site, failing: Failing) -> None:
    ready.build_release()
    result = cli("up", "--replicas", "1")
    assert result.status == 4
    assert failing.undone == ["broker", "replica-0"]
    assert (
        "The command failed. Stopped the parts that had started: broker, replica-0. `sealserve logs` shows their "
        "logs.\n"
    ) in result.err
    assert result.err.endswith("error[process.ended]: replica-0 ended before it was ready: error[test]\n  Its log: x\n")
    assert cli.error("up")["code"] == "process.ended"  # a program gets the error alone
    failing.undone, failing.error = [], OSError(28, "No space left on device", "/x")
    assert cli.error("up")["code"] == "file.refused"
    assert "broker" in failing.undone


def test_a_cluster_keeps_what_a_failed_start_made(
    cli: CommandLine, ready: Site, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.build_release()
    monkeypatch.setattr(targets, "in_use", lambda _: "kubernetes")
    monkeypatch.setattr(targets, "claim", lambda *_: None)
    assert cli.error("up")["code"] == "process.ended"
    assert failing.undone == []


def test_what_served_before_a_failure_goes_on(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    def stop_roles(_workspace: object, *roles: str, tell: object) -> Sequence[str]:
        assert tell is quietly
        stopped.extend(roles)
        return roles

    monkeypatch.setattr("sealserve.cluster.local.owner_services.stop_roles", stop_roles)
    alive = SimpleNamespace(is_alive=lambda: True, phase=Phase.CURRENT)
    known = SimpleNamespace(all=lambda: dict.fromkeys(("broker", "replica-0", "replica-1"), alive))
    monkeypatch.setattr("sealserve.cluster.local.owner_services.registry", lambda _: known)
    assert targets.undo(ready.workspace, ["broker", "replica-0"]) == ("replica-1",)
    assert stopped == ["replica-1"]
    monkeypatch.setattr(targets, "in_use", lambda _: "docker")
    assert targets.undo(ready.workspace, ["broker"]) == ()


def test_up_makes_the_hosts_folder_again(cli: CommandLine, ready: Site, failing: Failing) -> None:
    ready.build_release()
    shutil.rmtree(ready.workspace.host.root)
    assert cli("release", "list").status == 0
    assert not ready.workspace.host.root.exists()  # the signing key gives the public key; listing writes nothing
    assert cli.error("up")["code"] == "process.ended"
    assert failing.undone
    assert ready.workspace.host.run.is_dir()
    assert ready.workspace.host.owner_key.is_file()  # the public key is written again from the owner's
