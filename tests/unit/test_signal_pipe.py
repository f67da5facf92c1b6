import signal
from collections.abc import Iterator

import pytest

from sealserve.signal_pipe import signal_pipe


class StopError(Exception):
    """What a test's signal handler raises."""


@pytest.fixture
def stopped_by_sigterm() -> Iterator[object]:
    def stop(*_: object) -> None:
        raise StopError

    before = signal.signal(signal.SIGTERM, stop)
    yield stop
    signal.signal(signal.SIGTERM, before)


def test_signals_interrupt_the_start_and_neither_the_service_nor_its_clean_up(stopped_by_sigterm: object) -> None:
    cleaned = []
    with signal_pipe({signal.SIGTERM}) as signals:
        with pytest.raises(StopError):
            signal.raise_signal(signal.SIGTERM)
        try:
            signals.begin()
            signals.begin()  # has no effect
            signal.raise_signal(signal.SIGTERM)
            assert signals.wait(0) is signal.SIGTERM
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(1)
    assert cleaned == [1]
    assert signal.getsignal(signal.SIGTERM) is stopped_by_sigterm
    with pytest.raises(StopError):
        signal.raise_signal(signal.SIGTERM)


def test_a_second_signal_does_not_interrupt_the_clean_up_of_an_interrupted_start(stopped_by_sigterm: object) -> None:
    cleaned = []
    with pytest.raises(StopError), signal_pipe({signal.SIGTERM}):  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(1)
    assert cleaned == [1]
    assert signal.getsignal(signal.SIGTERM) is stopped_by_sigterm


def test_more_signals_than_the_pipe_can_hold_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with signal_pipe({signal.SIGTERM}) as signals:
        signals.begin()
        for _ in range(70_000):  # a pipe has 64 KiB
            signal.raise_signal(signal.SIGTERM)
        assert signals.wait(0) is signal.SIGTERM
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as after nohup
    try:
        with signal_pipe({signal.SIGHUP, signal.SIGTERM}) as signals:
            signals.begin()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
            assert signals.wait(0) is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
