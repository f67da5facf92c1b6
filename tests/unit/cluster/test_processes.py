import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from sealserve.cluster import ports
from sealserve.cluster.processes import (
    ProcessEndedError,
    ProcessNotReadyError,
    Registry,
    group_has_members,
    interrupted_once,
    last_error,
    start_time,
    wait_ready,
    wait_until,
)

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable, "-c",
    """import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
print('up', flush=True)
time.sleep(60)""",
]  # fmt: skip


def test_another_registry_finds_and_stops_it(tmp_path: Path) -> None:
    started = Registry(tmp_path / "run.json").start("sleeper", SLEEPER, log=tmp_path / "log")
    found = Registry(tmp_path / "run.json").all()["sleeper"]
    assert found == started
    assert found.is_alive()
    found.stop()
    assert not found.is_alive()
    Registry(tmp_path / "run.json").remove("sleeper")
    assert not (tmp_path / "run.json").exists()


def test_what_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    process = Registry(tmp_path / "run.json").start("stubborn", STUBBORN, log=tmp_path / "log")
    assert wait_until(lambda: (tmp_path / "log").read_text() == "up\n", seconds=30)
    process.stop(grace=0.2)
    assert not process.is_alive()
    assert wait_until(lambda: not group_has_members(process.pid), seconds=30)


def test_a_recycled_process_id_is_not_taken_for_it(tmp_path: Path) -> None:
    process = Registry(tmp_path / "run.json").start("sleeper", SLEEPER, log=tmp_path / "log")
    other = type(process)(role="other", pid=os.getpid(), started=1, port=None, log="")
    assert not other.is_alive()
    assert start_time(os.getpid()) is not None
    process.stop()


def test_one_that_ends_before_it_is_ready_gives_its_last_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('error[port.taken]: Port 1 is taken.'); print('bye')"]
    process = Registry(tmp_path / "run.json").start("broker", command, log=tmp_path / "log")
    with pytest.raises(ProcessEndedError, match=r"broker ended: error\[port.taken\]") as caught:
        wait_ready(process, lambda: False, seconds=30)
    assert caught.value.code == "process.ended"


def test_one_that_is_never_ready(tmp_path: Path) -> None:
    process = Registry(tmp_path / "run.json").start("sleeper", SLEEPER, log=tmp_path / "log")
    with pytest.raises(ProcessNotReadyError, match="was not ready") as caught:
        wait_ready(process, lambda: False, seconds=0.1)
    assert caught.value.code == "process.not-ready"
    process.stop()


def test_last_error_of_no_log_and_an_empty_one(tmp_path: Path) -> None:
    assert last_error(tmp_path / "none") == "it left no log."
    (tmp_path / "log").touch()
    assert last_error(tmp_path / "log") == "it logged nothing."


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    assert Registry(tmp_path / "run.json").all() == {}


def test_a_taken_port_is_named_with_what_it_is_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ports.PortTakenError, match=f"Port {port} at 127.0.0.1, for the broker") as caught:
            ports.require_free(port, "the broker")
        assert caught.value.code == "port.taken"
        assert ports.is_listening(port, session=os.getsid(0))
        assert not ports.is_listening(port, session=1)
    assert not ports.is_listening(port, session=os.getsid(0))
    assert ports.is_free(port)
    assert ports.find_free() > 0


def test_what_a_killed_process_left_is_ended_with_its_ports(tmp_path: Path) -> None:
    code = """import socket, subprocess, sys, time
listener = socket.create_server(("127.0.0.1", 0))
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[listener.fileno()])
print(listener.getsockname()[1], flush=True)
time.sleep(60)"""
    process = Registry(tmp_path / "run.json").start("nginx", [sys.executable, "-c", code], log=tmp_path / "log")
    assert wait_until(lambda: (tmp_path / "log").read_text().endswith("\n"), seconds=30)
    port = int((tmp_path / "log").read_text())
    os.kill(process.pid, signal.SIGKILL)
    assert wait_until(lambda: not process.is_alive(), seconds=30)
    assert not ports.is_free(port)
    process.stop()
    assert ports.is_free(port)


def test_the_second_interruption_waits_for_what_the_first_one_undoes() -> None:
    undone = []

    def interrupted_twice() -> None:
        with interrupted_once():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
                undone.append(True)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert undone == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
