"""Running deployments, each with its own ports. Each is stopped at the end of a test, also if the test fails."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.leftovers import NothingLeft, processes_of
from tests.harness.workspaces import Site, make_site

from sealserve.cluster import ports
from sealserve.cluster.local.processes import wait_until
from sealserve.cluster.target import SUPERVISOR

SECONDS = 280
"""After which a command counts as hanging."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


def command(*arguments: str | Path) -> list[str]:
    """Return the command line that runs a verb of this checkout."""
    return [sys.executable, "-m", "sealserve", *map(str, arguments)]


def run(*arguments: str | Path, directory: Path | None = None) -> Ended:
    """Run a verb in a separate process, and wait until it ends."""
    line = command(*arguments)
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=directory)
    return Ended(status=done.returncode, out=done.stdout, err=done.stderr)


class Running(CommandLine):
    """A deployment on this machine. Verbs run in this process, unless `process` runs them.

    Args:
        capture: pytest's, for what they print.
        site: Its workspace, with ports that are free.
    """

    def __init__(self, capture: pytest.CaptureFixture[str], site: Site) -> None:
        super().__init__(capture, site.directory)
        self.site = site
        self.nothing_left = NothingLeft(site.directory)

    def process(self, *arguments: str | Path) -> Ended:
        """Run a verb on the deployment in a separate process."""
        return run(*arguments, "--directory", self.directory)

    def up(self, *arguments: str | Path) -> None:
        """Start the deployment with a separate command, because the processes that it starts outlive it."""
        ended = self.process("up", *arguments)
        assert ended.status == 0, ended

    def parts(self) -> dict[str, dict[str, Any]]:
        """Return what `sealserve status` says of each part, by role."""
        return {part["role"]: part for part in self("status", "--json").json["parts"]}

    def states(self) -> dict[str, str]:
        """Return the state of each part, by role."""
        return {role: part["state"] for role, part in self.parts().items()}

    def kill(self, *roles: str) -> None:
        """End parts at once, as the kernel does when memory runs out, and wait until that is seen.

        The supervisor ends first, so that it does not start them again.
        """
        states = self.states()
        for role in (SUPERVISOR, *roles) if states.get(SUPERVISOR) == "running" else roles:
            os.kill(self.parts()[role]["pid"], signal.SIGKILL)
        assert wait_until(lambda: all(self.states()[role] == "ended" for role in roles), seconds=60)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Yield an empty folder with a short path: a Unix socket's path has 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="sealserve-", dir="/tmp")).resolve()  # short on purpose
    try:
        yield folder
    finally:
        for found in processes_of(folder):  # of a test that failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def deployment(capture: pytest.CaptureFixture[str], **sections: Any) -> Iterator[Running]:
    """Yield a deployment that does not run yet, with ports that are free; stop at the end what then runs."""
    settings: dict[str, Any] = {
        **sections,
        "service": {"port": ports.find_free(), **sections.get("service", {})},
        "broker": {
            "port": ports.find_free(),
            "collateral_url": f"http://127.0.0.1:{ports.find_free()}",
            **sections.get("broker", {}),
        },
    }
    with short_folder() as folder:
        running = Running(capture, make_site(folder, **settings))
        try:
            yield running
        finally:
            running("down", "--yes")
