"""Ctrl-C, SIGTERM and SIGHUP in a command: each raises `KeyboardInterrupt` in the main thread exactly once.

Python drops an exception that is raised in a finalizer, in the callback of a weak reference or in a C callback. It
passes the exception to `sys.unraisablehook` and continues, so a command would ignore Ctrl-C. `deliver` replaces the
hook, which sends the signal again until its handler has run. Once is not enough: a signal that arrives just before a
system call starts does not interrupt the call.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_AFTER: Final = 0.02  # seconds until a lost interruption is sent again, when the finalizer has returned

_lost: Final[list[Callable[[], None]]] = []
"""Functions that are called before a lost interruption is sent again, see `interrupted_once`."""
_reports: Final[list[Callable[[Any], object]]] = []
"""The hooks that `deliver` replaced. The last one handles all other lost exceptions."""

_delivered = 0
"""How many times `_interrupt` has run."""


def deliver() -> None:
    """Make each of `SIGNALS` raise `KeyboardInterrupt` in the main thread. An ignored signal stays ignored.

    Call this once in the main thread, at the start of the program. `nohup` relies on SIGHUP staying ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if sys.unraisablehook is not _report_or_send_again:
        _reports.append(sys.unraisablehook)
        sys.unraisablehook = _report_or_send_again


def _report_or_send_again(unraisable: Any) -> None:
    """Send a lost interruption again. Pass every other exception to the previous hook."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        _reports[-1](unraisable)
        return
    for prepare in tuple(_lost):
        prepare()
    # Use another thread: a signal sent from here would interrupt this hook and be lost again.
    threading.Thread(target=_send_again, args=(_delivered,), name="interruptions", daemon=True).start()


def _send_again(delivered_before: int) -> None:
    """Send a signal to the main thread until `_interrupt` has run once more."""
    main = threading.main_thread()
    while True:
        time.sleep(_AGAIN_AFTER)
        if _delivered != delivered_before or not main.is_alive():
            return
        signal.pthread_kill(main.ident or 0, _interrupting_signal())


def _interrupting_signal() -> signal.Signals:
    """Return a signal that has a handler: SIGINT is ignored in a background job of a shell without job control."""
    return next((number for number in SIGNALS if callable(signal.getsignal(number))), signal.SIGINT)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    global _delivered  # noqa: PLW0603  # a counter, and not a lock: this runs in the middle of any other code
    _delivered += 1
    raise KeyboardInterrupt


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP until the end of the block. Then run their handlers.

    Signals interrupt only the main thread. In another thread this function does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # An ignored signal stays ignored, in this process and in processes that the block starts.
    waiting = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda got, _frame: held.append(got)) for number in waiting}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield
    finally:
        _hand_back(before, held)


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP interrupt the block. Delay later signals until the end of the block.

    Therefore a second Ctrl-C cannot interrupt the clean-up that the first one started. Ignored signals stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in found.items() if callable(handler)}
    held: list[int] = []

    def first(got: int, frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, lambda later, _frame: held.append(later))
        before[signal.Signals(got)](got, frame)

    def listen() -> None:
        for number in before:
            signal.signal(number, first)

    listen()
    _lost.append(listen)  # if the first signal was lost in a finalizer, the next signal counts as the first
    try:
        yield
    finally:
        _lost.remove(listen)
        _hand_back(before, held)


def _hand_back(before: Mapping[signal.Signals, Any], held: Sequence[int]) -> None:
    """Restore the handlers and run them for the delayed signals."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for got in held:
        signal.raise_signal(got)
