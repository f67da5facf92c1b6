import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.signals import dispositions

from sealserve.cluster.local.processes import Registry, wait_until
from sealserve.interruptions import interrupted_once, uninterrupted


class StopError(Exception):
    """What a test's signal handler raises."""


@pytest.fixture
def stopped_by_sigterm() -> Iterator[object]:
    def stop(*_: object) -> None:
        raise StopError

    before = signal.signal(signal.SIGTERM, stop)
    yield stop
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_signal_waits_until_the_block_is_done() -> None:
    done = []

    @uninterrupted()
    def work() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        done.append(1)

    with pytest.raises(StopError):
        work()
    assert done == [1]


def test_handlers_are_as_before(stopped_by_sigterm: object) -> None:
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, hangup)
    assert signal.getsignal(signal.SIGTERM) is stopped_by_sigterm
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_an_error_in_the_block_is_not_lost() -> None:

    @uninterrupted()
    def work(*, interrupted: bool) -> None:
        if interrupted:
            signal.raise_signal(signal.SIGTERM)
        raise ValueError("mine")

    with pytest.raises(StopError) as caught:
        work(interrupted=True)
    assert isinstance(caught.value.__context__, ValueError)
    with pytest.raises(ValueError, match="mine"):
        work(interrupted=False)


def test_another_thread_has_nothing_to_wait_for() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_process_that_was_started_is_remembered_whatever_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def start_and_signal(*arguments: object, **options: object) -> object:
        child = start(*arguments, **options)  # type: ignore[call-overload]  # passed on as it is
        signal.raise_signal(signal.SIGTERM)
        return child

    monkeypatch.setattr(subprocess, "Popen", start_and_signal)
    registry = Registry(tmp_path / "run.json")
    with pytest.raises(StopError):
        registry.start("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "log")
    process = registry.all()["sleeper"]
    assert process.is_alive()
    process.stop()
    assert not process.is_alive()


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_process_does_not_inherit_the_waiting(tmp_path: Path) -> None:
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGTERM))"
    process = Registry(tmp_path / "run.json").start("shows", [sys.executable, "-c", code], log=tmp_path / "log")
    assert wait_until(lambda: not process.is_alive(), seconds=60)
    assert (tmp_path / "log").read_text() == f"set() {signal.SIG_DFL}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored_in_what_is_started(number: signal.Signals) -> None:
    """As `nohup` and a shell's background jobs want it, for children too."""
    code = f"import signal; print(signal.getsignal({int(number)}) is signal.SIG_IGN)"
    with dispositions({number: signal.SIG_IGN}):
        with uninterrupted():
            assert signal.getsignal(number) is signal.SIG_IGN
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert child.stdout == "True\n"


def test_the_second_interruption_waits_for_what_the_first_one_undoes() -> None:
    undone, handler = [], signal.getsignal(signal.SIGINT)

    def interrupted_twice() -> None:
        with interrupted_once():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
                undone.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert undone == [True]
    assert signal.getsignal(signal.SIGINT) is handler


_LOST = """import sys, time
from sealserve import interruptions
from signal import raise_signal, {signal} as number

class Finalized:
    def __del__(self):
        raise_signal(number)
        time.sleep(0)

interruptions.deliver()
try:
    {block}
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "block",
    [
        "Finalized(); time.sleep(60)",
        "with interruptions.interrupted_once(): Finalized(); time.sleep(60)",
        "import weakref; f = set(); w = weakref.ref(f, lambda _: raise_signal(number)); del f; time.sleep(60)",
    ],
    ids=["finalizer", "once", "weak-reference"],
)
def test_an_interruption_in_a_finalizer_is_not_lost(name: str, block: str) -> None:
    code = _LOST.replace("{signal}", name).replace("{block}", block)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert (child.stdout, child.stderr, child.returncode) == ("interrupted\n", "", 0)
