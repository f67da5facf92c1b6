"""A process that uses TensorFlow for this one. A crash of TensorFlow, or a model that runs for ever, ends only it.

The program reads one order as JSON from standard input, and writes one JSON object per line to standard output. The
caller uses `TensorFlowProcess`, and the program uses `read_order` and `messages`.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, Final, Self, cast

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PYTHON: Final = sys.executable
_ENVIRONMENT: Final = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}

Say = Callable[..., None]
"""Writes a message, whose members are the arguments."""


class TensorFlowProcess:
    """Starts a program and gives it an order. Use it as a context manager, which kills the program at its end.

    Args:
        module: The program's module.
        order: A dataclass, whose fields are JSON.
    """

    def __init__(self, module: str, order: "DataclassInstance") -> None:
        noise = None if os.environ.get("SEALSERVE_DEBUG") else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [PYTHON, "-P", "-m", module],  # the current folder can be a model's, and its files are not modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            env={**os.environ, **_ENVIRONMENT},
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        # Threads, so that `next_message` waits for a limited time also for a program that does not read.
        self._threads = [
            threading.Thread(target=self._write, args=(json.dumps(asdict(order)),), daemon=True),
            threading.Thread(target=self._read, daemon=True),
        ]

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for thread in self._threads:
            thread.join()
        self._process.wait()

    def next_message(self, seconds: float | None) -> dict[str, Any] | None:
        """Return the next message, or None if the program has ended.

        Args:
            seconds: The longest wait, or None for no limit.

        Raises:
            TimeoutError: There was no message within ``seconds``.
        """
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None
        return None if line is None else cast("dict[str, Any]", json.loads(line))

    def ending(self) -> str:
        """Wait until the program has ended, and return how: the name of a signal, or its exit status."""
        status = self._process.wait()
        return signal.Signals(-status).name if status < 0 else f"status {status}"

    def _write(self, order: str) -> None:
        # A program that has ended does not read its order. `next_message` then returns None.
        with contextlib.suppress(BrokenPipeError), cast("IO[str]", self._process.stdin) as stream:
            stream.write(order)

    def _read(self) -> None:
        with cast("IO[str]", self._process.stdout) as stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)


def read_order() -> dict[str, Any]:
    """Return the order, in the program."""
    return cast("dict[str, Any]", json.load(sys.stdin))


def messages() -> Say:
    """Return what writes messages, in the program. What TensorFlow prints goes to standard error from now on."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**message: object) -> None:
        lines.write(json.dumps(message) + "\n")
        lines.flush()

    return say
