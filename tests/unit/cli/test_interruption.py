"""Ctrl-C while a deployment is changed: the first one undoes what was begun, a second one does not cut that short."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.cli import down, scale, up
from sealserve.cluster import targets
from sealserve.cluster.target import PartStatus, quietly


class Impatient:
    """A target whose work is interrupted, and whose undoing is interrupted as well."""

    def __init__(self, running: Sequence[str]) -> None:
        self.parts = list(running)
        self.undone: list[str] = []

    def up(self, _release: Path, replicas: int) -> None:
        self.parts += [f"replica-{index}" for index in range(replicas)]
        signal.raise_signal(signal.SIGINT)

    def scale(self, replicas: int) -> None:
        self.up(Path(), replicas)

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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def put(running: Sequence[str]) -> Impatient:
        target = Impatient(running)
        assert {scale.scale, down.down, up.up}  # imported by now, so that nothing here is bound for good
        monkeypatch.setattr(targets, "open_target", lambda *_args, **_more: target)
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
    assert result.err.endswith("Interrupted: stopped replica-0, replica-1 again.\n")


def test_what_ran_before_goes_on(
    cli: CommandLine, ready: Site, impatient: Callable[[Sequence[str]], Impatient]
) -> None:
    ready.build_release()
    target = impatient(["broker"])
    result = cli("up", "--replicas", "1")
    assert result.status == 130
    assert target.parts == ["broker", "replica-0"]
    assert result.err.endswith("Interrupted: what ran before goes on. `sealserve status` shows what there is.\n")


def test_a_target_where_nothing_could_be_started_is_forgotten(
    cli: CommandLine, ready: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready.build_release()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    assert cli.error("up", "--target", "docker")["status"] == 4
    assert targets.in_use(ready.workspace) is None
    assert cli.ok("status") == "Nothing runs: `sealserve up` starts it.\n"
    assert cli.ok("down") == "Nothing runs.\n"


def test_down_says_what_is_left(cli: CommandLine, ready: Site, impatient: Callable[[Sequence[str]], Impatient]) -> None:
    assert ready.workspace.root.exists()
    impatient(["broker", "nginx"])
    result = cli("down", "--yes")
    assert result.status == 130
    assert result.err.endswith("Interrupted: broker, nginx still there. `sealserve down` stops the rest.\n")
