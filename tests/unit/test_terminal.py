"""The terminal that executes the documentation's commands."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.terminal import Terminal, TerminalError, is_alive


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with Terminal(tmp_path, {"PATH": os.environ["PATH"]}) as opened:
        yield opened


def test_it_keeps_its_folder_and_its_variables(terminal: Terminal, tmp_path: Path) -> None:
    assert terminal.run("mkdir folder && cd folder && NAME=value", timeout=60).status == 0
    assert terminal.run("pwd; echo $NAME >&2", timeout=60).lines == [str(tmp_path / "folder"), "value"]


def test_it_keeps_the_exit_status(terminal: Terminal) -> None:
    result = terminal.run("printf text; (exit 3)", timeout=60)
    assert (result.status, result.lines) == (3, ["text"])
    assert terminal.run("echo $?", timeout=60).lines == ["3"]


def test_a_command_that_reads_gets_nothing(terminal: Terminal) -> None:
    assert terminal.run("read line || echo end", timeout=60).lines == ["end"]


def test_a_job_runs_on_until_it_is_killed(terminal: Terminal) -> None:
    terminal.start("{ echo ready; exec sleep 600; } &", lambda lines: "ready" in lines, timeout=60)
    assert len(terminal.processes()) == 1
    terminal.run("kill %1 && wait %1", timeout=60)
    assert terminal.processes() == []


def test_a_job_that_ends_is_not_waited_for(terminal: Terminal) -> None:
    with pytest.raises(TerminalError, match="ended; it printed") as caught:
        terminal.start("{ echo no room; false; } &", lambda _: False, timeout=60)
    assert "no room" in str(caught.value)


def test_a_command_that_does_not_end_is_told(terminal: Terminal) -> None:
    with pytest.raises(TerminalError, match="does not end"):
        terminal.run("sleep 600", timeout=0.1)


def test_nothing_outlives_it(tmp_path: Path) -> None:
    with Terminal(tmp_path, {"PATH": os.environ["PATH"]}) as terminal:
        terminal.start("{ echo ready; exec sleep 600; } &", lambda lines: "ready" in lines, timeout=60)
        running = terminal.processes()
        assert running
    assert not any(is_alive(process) for process in running)
