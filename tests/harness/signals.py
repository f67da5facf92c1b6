"""Signal dispositions of a terminal's programs, independent of this process's own dispositions.

Under ``nohup``, or as a shell's background job, SIGINT and SIGHUP are ignored from the start. Children inherit that.
"""

import contextlib
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Final

DEFAULT: Final[Mapping[signal.Signals, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@contextlib.contextmanager
def dispositions(changed: Mapping[signal.Signals, Any] = DEFAULT) -> Iterator[None]:
    """Let signals do in the block what ``changed`` says, for this process and for children that it starts meanwhile."""
    before = {number: signal.signal(number, handler) for number, handler in changed.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
