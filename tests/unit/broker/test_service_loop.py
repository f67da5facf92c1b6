"""The main thread of a running broker: signals, polls and reports to systemd."""

import os
import signal
from collections.abc import Iterator

import pytest

from sealserve.broker import service_loop
from sealserve.broker.service_loop import run, signalled
from sealserve.systemd_notify import Notifier


class Service:
    """Records what the main thread does."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.state = "fine"
        self.serving = True

    def is_serving(self) -> bool:
        return self.serving

    def reload(self) -> None:
        self.calls.append("reload")
        self.state = "reloaded"

    def poll(self) -> None:
        self.calls.append("poll")

    def describe(self) -> str:
        return self.state


class Recorder(Notifier):
    """A notifier that records its messages."""

    def __init__(self, *, watchdog: float | None = None) -> None:
        super().__init__("@nowhere", watchdog=watchdog)
        self.sent: list[str] = []

    def _send(self, *lines: str) -> None:
        self.sent.append(" ".join(line for line in lines if not line.startswith("MONOTONIC_USEC=")))


def waiting(*signals: signal.Signals | None) -> tuple[list[float], service_loop.Wait]:
    intervals: list[float] = []
    left: Iterator[signal.Signals | None] = iter((*signals, signal.SIGTERM))

    def wait(seconds: float) -> signal.Signals | None:
        intervals.append(seconds)
        return next(left)

    return intervals, wait


def test_a_reload_is_reported_from_its_begin_to_its_end() -> None:
    service, notifier = Service(), Recorder()
    _, wait = waiting(signal.SIGHUP)
    run(service, wait, notifier)
    assert service.calls == ["reload", "poll"]
    assert notifier.sent == [
        "READY=1 STATUS=fine",
        "RELOADING=1",
        "READY=1 STATUS=reloaded",
        "STOPPING=1 STATUS=stopping",
    ]


def test_a_changed_state_is_reported_once() -> None:
    service, notifier = Service(), Recorder()
    service.poll = lambda: setattr(service, "state", "failed")  # type: ignore[method-assign]
    _, wait = waiting(None, None, None)
    run(service, wait, notifier)
    assert notifier.sent == ["READY=1 STATUS=fine", "STATUS=failed", "STOPPING=1 STATUS=stopping"]


@pytest.mark.parametrize(("watchdog", "interval"), [(120.0, 1.0), (0.3, 0.1)])
def test_the_watchdog_is_told_often_enough_while_the_service_serves(watchdog: float, interval: float) -> None:
    service, notifier = Service(), Recorder(watchdog=watchdog)
    intervals, wait = waiting(None, None)
    run(service, wait, notifier)
    assert notifier.sent.count("WATCHDOG=1") == 2
    assert intervals == pytest.approx([interval] * 3)
    service.serving = False
    run(service, waiting(None, None)[1], silent := Recorder(watchdog=watchdog))
    assert "WATCHDOG=1" not in silent.sent


def test_files_are_polled_once_a_second_however_many_signals_arrive() -> None:
    service = Service()
    run(service, waiting(*[signal.SIGHUP] * 50)[1], Recorder())
    assert service.calls.count("reload") == 50
    assert service.calls.count("poll") < 50


def test_signals_are_received_and_their_handlers_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_loop, "_has_terminal", lambda: False)
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    with signalled() as signals:
        signals.begin()
        assert signals.wait(0) is None
        for number in before:
            os.kill(os.getpid(), number)
            assert signals.wait(60) is number
        assert signals.wait(0) is None
    assert {number: signal.getsignal(number) for number in before} == before


def test_the_end_of_the_terminal_ends_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_loop, "_has_terminal", lambda: True)
    before = signal.getsignal(signal.SIGHUP)
    with signalled() as signals:
        signals.begin()
        assert signal.getsignal(signal.SIGHUP) is before
    monkeypatch.setattr(service_loop, "_has_terminal", lambda: False)
    monkeypatch.setattr(signal, "getsignal", lambda _number: signal.SIG_IGN)  # as after nohup
    handled: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda number, _handler: handled.append(number))
    with signalled() as signals:
        signals.begin()
        assert handled == []
