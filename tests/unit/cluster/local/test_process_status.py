"""Status of processes of this machine, after different kinds of endings."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.workspaces import make_site

from sealserve.cluster.local import process_status as process_status_module
from sealserve.cluster.local.process_status import Ending, deployment_status, process_status
from sealserve.cluster.local.processes import Phase, Process, wait_until
from sealserve.cluster.local.service_probe import Answer, probe
from sealserve.cluster.target import Health, State
from sealserve.process_signal import start_time


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "broker.log"
    path.write_text("error[broker.port-taken]: Port 4433 on 127.0.0.1 is taken.\n")
    os.utime(path, (0, 0))
    return path


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def recorded(child: "subprocess.Popen[bytes]", log: Path, port: int | None = None) -> Process:
    return Process(role="broker", pid=child.pid, started=start_time(child.pid) or 0, port=port, log=str(log))


def test_a_part_that_was_killed_does_not_show_an_earlier_runs_error(
    child: "subprocess.Popen[bytes]", log: Path
) -> None:
    process = recorded(child, log)
    alive = process_status(process)
    assert (alive.state, alive.health, alive.error) == (State.RUNNING, Health.UNKNOWN, "")
    began = alive.started
    assert began is not None
    assert abs(datetime.now(UTC) - began) < timedelta(minutes=5)
    child.kill()
    child.wait()
    ended = process_status(process)
    assert ended.state is State.ENDED
    assert "ended without logging an error" in ended.error


def test_the_observation_of_the_parent_is_the_reason(child: "subprocess.Popen[bytes]", log: Path) -> None:
    process, moment = recorded(child, log), datetime(2026, 11, 28, 12, tzinfo=UTC)
    ending = Ending(text="ended by signal 9 (SIGKILL)", time=moment, restarts=2)
    again = process_status(process, ending)
    assert (again.state, again.restarts) == (State.RUNNING, 2)
    assert (again.error, again.error_time) == (ending.text, moment)
    child.kill()
    child.wait()
    assert process_status(process, ending).error == ending.text


def test_the_error_of_this_run_is_the_reason(child: "subprocess.Popen[bytes]", log: Path) -> None:
    now = datetime.now(UTC)
    with log.open("a") as stream:
        stream.write(f"{now:%Y-%m-%dT%H:%M:%S}.999Z ERROR error[broker.database]: The disk is full.\n")
    process = recorded(child, log)
    child.kill()
    child.wait()
    ended = process_status(process)
    assert ended.error == "error[broker.database]: The disk is full."
    assert ended.error_time is not None


def test_a_part_that_is_stopped_or_does_not_listen_is_unhealthy(child: "subprocess.Popen[bytes]", log: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        process = recorded(child, log, port)
        assert process_status(process).health is Health.UNHEALTHY
        listener.listen()
        assert process_status(process).health is Health.HEALTHY
        child.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: process_status(process).health is Health.UNHEALTHY, seconds=20)


def test_a_process_of_an_earlier_boot_has_no_start(child: "subprocess.Popen[bytes]", log: Path) -> None:
    process = Process(role="broker", pid=child.pid, started=1, port=None, log=str(log), boot="another")
    assert process.began is None
    assert process_status(process).state is State.ENDED


def test_a_server_that_does_not_answer_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.cluster.local.service_probe._SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not probe("127.0.0.1", port, "service").answers
    assert not probe("127.0.0.1", port, "service").answers


def test_a_server_that_ends_in_the_handshake_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def end() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)  # the client's first bytes; unread data would reset the connection

        server = threading.Thread(target=end)
        server.start()
        assert not probe("127.0.0.1", listener.getsockname()[1], "service").answers
        server.join()


def test_an_alert_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(bytes.fromhex("15030300020228"))  # a fatal alert: handshake_failure
                connection.recv(65_536)

        server = threading.Thread(target=refuse)
        server.start()
        assert probe("127.0.0.1", listener.getsockname()[1], "service").answers
        server.join()


def test_a_replica_serves_only_after_nginx_knows_it(
    child: "subprocess.Popen[bytes]", log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path / "site")
    monkeypatch.setattr(process_status_module, "serves", lambda _: True)
    monkeypatch.setattr(process_status_module, "probe", lambda *_: Answer(answers=True))
    found = [
        replace(recorded(child, log, 12000), role="replica-0", phase=phase)
        for phase in (Phase.CURRENT, Phase.NEXT, Phase.LEAVING)
    ]
    parts = deployment_status(site.workspace, site.deployment, found, release="a-1")
    assert [part.state for part in parts] == [State.SERVING, State.NEXT, State.LEAVING]
