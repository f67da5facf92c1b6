"""The command line, called in this process as ``main`` would call it."""

import contextlib
import json
import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sealserve.cli import console
from sealserve.cli.application import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error that a command with ``--json`` printed."""
        error: dict[str, Any] = json.loads(self.out)["error"]
        return error


class CommandLine:
    """Runs commands on one workspace.

    Args:
        capture: pytest's, for what they print.
        directory: The workspace's folder.
    """

    def __init__(self, capture: pytest.CaptureFixture[str], directory: Path) -> None:
        self._capture = capture
        self.directory = directory

    def __call__(self, *arguments: str | Path) -> Result:
        """Run a command on the workspace."""
        return self.bare(*arguments, "--directory", self.directory)

    def bare(self, *arguments: str | Path) -> Result:
        """Run a command as it is."""
        self._capture.readouterr()
        with restored():
            status = run([str(argument) for argument in arguments])
        captured = self._capture.readouterr()
        return Result(status=status, out=captured.out, err=captured.err)

    def ok(self, *arguments: str | Path) -> str:
        """Run a command that must succeed, and return its output."""
        result = self(*arguments)
        assert result.status == 0, result
        return result.out

    def json(self, *arguments: str | Path) -> Any:
        """Run a command that must succeed, with ``--json``."""
        return json.loads(self.ok(*arguments, "--json"))

    def error(self, *arguments: str | Path) -> dict[str, Any]:
        """Run a command that must fail, with ``--json``; return the error with its exit status."""
        result = self(*arguments, "--json")
        assert result.status != 0, result
        assert result.err == ""
        return {**result.error, "status": result.status}


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Give back what a command sets for its whole process: handlers of signals and of the root logger, its screen."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        root.handlers[:], root.level = handlers, level
        console.err._file = None  # whatever standard error is then
