"""Ctrl-C, SIGTERM and SIGHUP in a command: they raise `KeyboardInterrupt` in the main thread, exactly once each.

Python drops an exception that is raised while a finalizer, a weak reference's callback or a C callback runs: it
reports the exception to `sys.unraisablehook` and goes on. A command would then ignore Ctrl-C. `deliver` replaces the
hook and sends the signal again a moment later.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_AFTER: Final = 0.01  # seconds until a lost interruption is sent again: the finalizer has returned by then

_lost: Final[list[Callable[[], None]]] = []
"""Functions to call before a lost interruption is sent again, see `interrupted_once`."""
_reports: Final[list[Callable[[Any], object]]] = []
"""The hooks that `deliver` replaced; the last one reports other lost exceptions."""


def deliver() -> None:
    """Let each of `SIGNALS` raise `KeyboardInterrupt` in the main thread. An ignored signal stays ignored.

    Call it once, in the main thread, when the program starts. `nohup` relies on the ignored SIGHUP.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if sys.unraisablehook is not _report_or_send_again:
        _reports.append(sys.unraisablehook)
        sys.unraisablehook = _report_or_send_again


def _report_or_send_again(unraisable: Any) -> None:
    """Send a lost interruption again, and pass every other exception to the hook that was in place before."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        _reports[-1](unraisable)
        return
    for prepare in tuple(_lost):
        prepare()
    # From another thread: sent from here, the signal would interrupt this hook and be lost again.
    timer = threading.Timer(_AGAIN_AFTER, signal.pthread_kill, (threading.main_thread().ident, _interrupting_signal()))
    timer.daemon = True
    timer.start()


def _interrupting_signal() -> signal.Signals:
    """Return a signal that has a handler: SIGINT is ignored in a background job of a shell without job control."""
    return next((number for number in SIGNALS if callable(signal.getsignal(number))), signal.SIGINT)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP until the block is done. Then their handlers run.

    Signals interrupt the main thread only. In another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # An ignored signal stays ignored, here and in a process that is started meanwhile.
    waiting = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda got, _frame: held.append(got)) for number in waiting}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield
    finally:
        _hand_back(before, held)


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP interrupt the block. Delay later ones until the block is done.

    A second Ctrl-C therefore cannot interrupt the clean-up that the first one started. Ignored signals stay ignored.
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
    _lost.append(listen)  # the first one was lost in a finalizer: the next one is the first one again
    try:
        yield
    finally:
        _lost.remove(listen)
        _hand_back(before, held)


def _hand_back(before: Mapping[signal.Signals, Any], held: Sequence[int]) -> None:
    """Restore the handlers, and let them handle the delayed signals."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for got in held:
        signal.raise_signal(got)
