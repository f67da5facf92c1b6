"""Work in a process of its own that ends at a chosen file operation: killed, or interrupted as by Ctrl-C."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

OPERATIONS = ("open", "os.", "shutil.", "sqlite3.")
"""What counts as a step: the audit events of Python whose names begin so."""

FAILED = 99


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that gets SIGKILL at its file operation number ``step``; return whether it got so far."""
    return os.WIFSIGNALED(_run(step, work, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def interrupted_at(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that gets Ctrl-C at its file operation number ``step``; return whether it got so far."""
    return os.waitstatus_to_exitcode(_run(step, work, _interrupt)) != 0


def _interrupt() -> None:
    raise KeyboardInterrupt


def _run(step: int, work: Callable[[], object], end: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest-xdist has a thread; the child does not need it
        child = os.fork()
    if child == 0:
        _work_until(step, work, end)
    return os.waitpid(child, 0)[1]


def _work_until(step: int, work: Callable[[], object], end: Callable[[], None]) -> None:
    left = step

    def count(event: str, _arguments: Any) -> None:
        nonlocal left
        if event.startswith(OPERATIONS):
            left -= 1
            if left == -1:
                end()

    status = FAILED
    try:
        sys.addaudithook(count)
        work()
        status = 0
    finally:
        os._exit(status)
