import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.launch.server_process import SignalRelay, StoppedBySignal, relayed_signals, start_server

# Python 3.12 and later warn if a process with threads forks. Test workers have threads; the launcher does not.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def relay() -> Iterator[SignalRelay]:
    with relayed_signals() as made:
        yield made


def start(code: str) -> subprocess.Popen[bytes]:
    return start_server(sys.executable, [sys.executable, "-I", "-c", code], {"ONLY": "this"})


def test_the_server_gets_exactly_what_was_measured(tmp_path: Path, relay: SignalRelay) -> None:
    out = tmp_path / "out"
    code = f"""
import json, os, pathlib
seen = [dict(os.environ), os.getcwd(), os.getpgrp() == os.getpid()]
pathlib.Path({str(out)!r}).write_text(json.dumps(seen))
"""

    assert relay.run(lambda: start(code)) == 0

    environment, directory, own_group = json.loads(out.read_text())
    environment.pop("LC_CTYPE", None)  # Python sets it for its own process
    assert environment == {"ONLY": "this"}
    assert directory == "/"
    assert own_group


def test_the_servers_exit_status_is_returned(relay: SignalRelay) -> None:
    assert relay.run(lambda: start("raise SystemExit(9)")) == 9


def test_a_signal_that_ended_the_server_is_told_as_a_shell_does(relay: SignalRelay) -> None:
    assert relay.run(lambda: start("import os; os.kill(os.getpid(), 11)")) == 128 + 11


def test_a_signal_before_the_server_runs_stops_the_launcher(relay: SignalRelay) -> None:
    del relay
    with pytest.raises(StoppedBySignal) as caught:
        os.kill(os.getpid(), signal.SIGTERM)

    assert caught.value.exit_status == 128 + signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)  # no signal interrupts the cleanup


def test_a_signal_while_the_server_starts_reaches_it(relay: SignalRelay) -> None:
    def starting() -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        return start("import signal; signal.pause()")

    assert relay.run(starting) == 128 + signal.SIGTERM


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]

    with relayed_signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_a_program_that_is_not_there_is_said() -> None:
    with raises(EnclaveCode.SERVER_START, match="/no/such/program cannot be started: No such file") as caught:
        start_server("/no/such/program", ["program"], {})

    assert caught.value.code == "enclave.server-start"
