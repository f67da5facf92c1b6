"""Run work in a separate process that ends at a chosen file operation: killed, or interrupted as by Ctrl-C."""

import contextlib
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

OPERATIONS = ("open", "os.", "shutil.", "sqlite3.")
"""What counts as a step: the audit events of Python whose names begin so."""

CAN_FAIL = ("os.mkdir", "os.rename", "os.chmod")
"""Operations that fail because of a full disk or a missing permission."""

FAILED = 99
UNREACHED = 98


class _EndedError(Exception):
    pass


@contextlib.contextmanager
def ended_at(module: ModuleType, function: str) -> Iterator[None]:
    """End the block at the first call of a function in ``module``, as a lost process would. The call must happen."""

    def end(*_: object, **__: object) -> None:
        raise _EndedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, function, end)
        with pytest.raises(_EndedError):
            yield


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that gets SIGKILL at its file operation number ``step``; return whether it got so far."""
    return os.WIFSIGNALED(_run(step, work, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def interrupted_at(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that gets Ctrl-C at its file operation number ``step``; return whether it got so far."""
    return os.waitstatus_to_exitcode(_run(step, work, _interrupt)) != UNREACHED


def failed_at(step: int, work: Callable[[], object]) -> bool | None:
    """Do ``work`` in a child whose file operation number ``step`` finds no room.

    Returns:
        Whether it ended with an error; None if it did not get so far.
    """
    status = os.waitstatus_to_exitcode(_run(step, work, _no_room, of=CAN_FAIL))
    return None if status == UNREACHED else status != 0


def _no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _interrupt() -> None:
    raise KeyboardInterrupt


def _run(step: int, work: Callable[[], object], end: Callable[[], None], *, of: tuple[str, ...] = OPERATIONS) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest-xdist has a thread; the child does not need it
        child = os.fork()
    if child == 0:
        _work_until(step, work, end, of)
    return os.waitpid(child, 0)[1]


def _work_until(step: int, work: Callable[[], object], end: Callable[[], None], of: tuple[str, ...]) -> None:
    left = step

    def count(event: str, _arguments: Any) -> None:
        nonlocal left
        if event.startswith(of):
            left -= 1
            if left == -1:
                end()

    status = FAILED
    try:
        sys.addaudithook(count)
        work()
        status = 0 if left < 0 else UNREACHED
    finally:
        os._exit(status)
