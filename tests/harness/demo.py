"""Run `sealserve demo` in a separate process, and watch its output."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.harness.leftovers import NothingLeft
from tests.harness.running import Ended, command, short_folder
from tests.harness.signals import dispositions
from tests.harness.tiny_model import saved_model

from sealserve.cluster.local.processes import wait_until

SECONDS: Final = 240
"""Time after which a demo counts as hanging."""

# Importing TensorFlow takes seconds. If a test does not need TensorFlow's answers, numpy computes them.
WITHOUT_TENSORFLOW: Final = """
import os
os.environ["GRPC_VERBOSITY"] = "NONE"  # as `main` does, but the imports below already import gRPC
import numpy as np
from sealserve.cli import main
from sealserve.cli.demo import comparison

def compute(folder, requests, given):
    inputs = [{"x": np.array([number], np.float32)} for number in range(requests)]
    answers = [{"y": arrays["x"] / 2 + 2} for arrays in inputs]
    return comparison.Reference(
        signature="serving_default", inputs=inputs, answers=answers, smallest_difference=0.5, rate=1.0, threads=1
    )

comparison.compute = compute
main()
"""


class Demo:
    """A demo in a temporary folder. Leaving the context ends all processes that still run.

    Args:
        folder: An empty folder with a short path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = saved_model(folder / "half-plus-two")
        self.workspace = folder / "demo"
        self.nothing_left = NothingLeft(folder)

    def run(self, *arguments: str | Path, tensorflow: bool = True) -> Ended:
        """Run the demo until it ends."""
        with self.start(*arguments, tensorflow=tensorflow) as started:
            return started.end()

    def start(self, *arguments: str | Path, tensorflow: bool = False) -> "Started":
        """Start the demo, by default without TensorFlow in its own process (the replicas use it)."""
        line = command("demo", "--directory", self.workspace, *arguments)
        if not tensorflow:
            line = [sys.executable, "-c", WITHOUT_TENSORFLOW, *line[3:]]
        return Started(line, self.workspace)


class Started:
    """A running demo, in a separate session, as a terminal would start it.

    Args:
        line: The command.
        workspace: Its folder.
    """

    def __init__(self, line: list[str], workspace: Path) -> None:
        self._workspace = workspace
        self._lines: list[str] = []
        with dispositions():
            self._process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip

    def wait_for(self, beginning: str) -> None:
        """Wait until the demo prints a line that begins with ``beginning``."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if line.startswith(beginning):
                return
        raise AssertionError(f"no line began with {beginning!r}: {self.end()}")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true, or fail when the demo ends."""
        assert wait_until(lambda: condition() or self._process.poll() is not None, seconds=SECONDS)
        assert condition(), self.end()

    def has_started(self, role: str) -> bool:
        """Return whether the record of started parts contains a part."""
        record = self._workspace / ".sealserve/host/run/local.json"
        with contextlib.suppress(FileNotFoundError):
            return f'"{role}"' in record.read_text()
        return False

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the demo, or to its whole process group, as a terminal does."""
        (os.killpg if group else os.kill)(self._process.pid, number)

    def end(self) -> Ended:
        """Wait until the demo ends, and return its output."""
        out, err = self._process.communicate(timeout=SECONDS)
        return Ended(status=self._process.returncode, out="".join(self._lines) + out, err=err)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def demonstration() -> Iterator[Demo]:
    """Yield a demo that was not started yet."""
    with short_folder() as folder:
        yield Demo(folder)
