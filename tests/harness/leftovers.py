"""What a deployment leaves on a machine: processes, sockets, mounts, files in shared memory."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sealserve.cluster.local.processes import wait_until

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # what is looked at
SECONDS = 60
"""After which something that should have ended is left over; no test waits for it otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A process that belongs to a folder."""

    pid: int
    command: str


def processes_of(folder: Path) -> list[Found]:
    """Return the processes that have to do with ``folder``: by their arguments, their directory or their open files.

    Every process that sealserve starts in a workspace logs to a file in it. This process, and its parents, do not
    count.
    """
    return [
        Found(pid=pid, command=_read(entry / "cmdline").replace("\0", " "))
        for pid, entry in _others()
        if str(folder) in _read(entry / "cmdline") or any(str(folder) in link for link in _links(entry))
    ]


def mounts() -> list[str]:
    """Return the mounts of sealserve's that this process sees. In a namespace of an enclave's own there may be more."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    others = (
        "/sealserve-base-",
        "/sealserve-docker-",
        "/sealserve-testbed/",
        "/netns/sealserve-node-",
    )  # an engine or a cluster of other tests
    return [
        line
        for line in table.splitlines()
        if ("sealserve" in line or " /release " in line) and not any(other in line for other in others)
    ]


def shared_memory() -> set[Path]:
    """Return what lies in shared memory, apart from the PostgreSQL servers of other tests."""
    servers = ("PostgreSQL.", "sealserve-pg-")  # a server's own segments, and its folder (tests.harness.postgresql)
    return {path for path in SHARED_MEMORY.iterdir() if not path.name.startswith(servers)}


class NothingLeft:
    """Records the state before a test, and reports what is left over after it.

    Args:
        folder: Of the deployment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = shared_memory()

    def check(self, *, wait: float = SECONDS) -> None:
        """Check that nothing is left over. Processes that are ending may take some time on a busy machine.

        Args:
            wait: Seconds; 0 where a command promised that all has ended when it returns.
        """
        wait_until(lambda: not processes_of(self._folder), seconds=wait)
        left = processes_of(self._folder)
        assert left == [], f"left running: {left}"
        assert mounts() == []
        assert not Path("/release").exists()
        wait_until(lambda: not shared_memory() - self._memory, seconds=SECONDS)  # other tests use it, too
        assert shared_memory() - self._memory == set()


def _others() -> Iterator[tuple[int, Path]]:
    ours = {os.getpid(), os.getppid()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) not in ours:
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
                if state not in "ZX":
                    yield int(entry.name), entry


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def _links(entry: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield str((entry / "cwd").readlink())
        for descriptor in (entry / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(descriptor.readlink())
