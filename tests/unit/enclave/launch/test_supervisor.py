"""The supervisor restarts a launcher after a signal ended its server, with growing pauses and a limit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.enclave.conftest import Python

SUPERVISED = """
import logging, os, sys, time
from pathlib import Path
from sealserve.enclave.launch import pauses, supervisor
from sealserve.enclave.launch.server_process import StoppedBySignal
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
pauses.FIRST_PAUSE, pauses.LONGEST_PAUSE = 0.01, 0.02
supervisor._POLL = 0.01
log = Path(sys.argv[1])
def launch():
    with log.open("a") as lines:
        lines.write(f"{os.getpid()}\\n")
    starts = len(log.read_text().splitlines())
    SERVER
try:
    status = supervisor.supervise(launch, attempts=ATTEMPTS, serves=lambda: SERVES)
except StoppedBySignal as stop:
    status = stop.exit_status
sys.exit(status)
"""


def script(server: str, *, attempts: int = 4, serves: str = "log.exists()") -> str:
    return SUPERVISED.replace("SERVER", server).replace("ATTEMPTS", str(attempts)).replace("SERVES", serves)


def waits(folder: Path) -> str:
    """Return code for a server's start: it waits until the supervisor has checked whether it serves."""
    return f"while not Path({str(folder / 'seen')!r}).exists(): time.sleep(0.01)\n    "


def starts(log: Path) -> list[str]:
    return log.read_text().split()


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL, signal.SIGFPE, signal.SIGSEGV])
def test_a_server_that_a_signal_ended_is_started_again(python: Python, tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    server = waits(tmp_path) + f"return {128 + number} if starts < 3 else 0"
    seen = f"Path({str(tmp_path / 'seen')!r}).touch() or True"
    result = python(script(server, serves=seen), log)
    assert result.returncode == 0, result.stderr
    assert len(set(starts(log))) == 3, "each start is a process of its own"
    assert f"step=again after=0s failed=2 signal={number.name}" in result.stderr


def test_a_crash_loop_is_given_up(python: Python, tmp_path: Path) -> None:
    server = waits(tmp_path) + "os.abort()"
    seen = f"Path({str(tmp_path / 'seen')!r}).touch() or True"
    result = python(script(server, attempts=4, serves=seen), tmp_path / "log")
    assert result.returncode == 128 + signal.SIGABRT
    assert len(starts(tmp_path / "log")) == 4


@pytest.mark.parametrize("status", [0, 1, 3, 128 + signal.SIGTERM, 128 + signal.SIGINT])
def test_what_ends_by_itself_or_was_asked_to_is_not_started_again(python: Python, tmp_path: Path, status: int) -> None:
    server = waits(tmp_path) + f"return {status}"
    seen = f"Path({str(tmp_path / 'seen')!r}).touch() or True"
    assert python(script(server, serves=seen), tmp_path / "log").returncode == status
    assert len(starts(tmp_path / "log")) == 1


def test_what_never_served_is_not_started_again(python: Python, tmp_path: Path) -> None:
    result = python(script("os.abort()", serves="False"), tmp_path / "log")
    assert result.returncode == 128 + signal.SIGABRT
    assert len(starts(tmp_path / "log")) == 1


def test_an_error_of_the_launcher_is_its_own(python: Python, tmp_path: Path) -> None:
    result = python(script("raise SystemExit('no broker')", serves="True"), tmp_path / "log")
    assert (result.returncode, result.stderr.count("no broker")) == (1, 1)


@pytest.mark.parametrize("pause", [0, 3600])
def test_a_signal_ends_it_and_the_server(tmp_path: Path, pause: int) -> None:
    log = tmp_path / "log"
    seen = tmp_path / "seen"
    server = (
        "signal.pause()" if not pause else f"while not Path({str(seen)!r}).exists(): time.sleep(0.01)\n    os.abort()"
    )
    code = script(server, serves=f"Path({str(seen)!r}).touch() or True").replace(
        "import logging,", "import signal, logging,"
    )
    code = code.replace("FIRST_PAUSE, pauses.LONGEST_PAUSE = 0.01", f"FIRST_PAUSE, pauses.LONGEST_PAUSE = {pause}")
    with subprocess.Popen([sys.executable, "-c", code, log], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not (seen.exists() and log.exists() and log.read_text()):
            time.sleep(0.01)
        if pause:
            while "step=again" not in process.stderr.readline():
                pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    for pid in starts(log):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
