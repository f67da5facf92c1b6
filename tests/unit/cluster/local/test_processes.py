import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.cluster import ports
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import processes
from sealserve.cluster.local.processes import (
    Process,
    ProcessEndedError,
    Registry,
    group_has_members,
    last_error,
    wait_ready,
    wait_until,
)
from sealserve.errors import PortTakenError
from sealserve.process_signal import boot_id, kill_group, send_signal, start_time, user_of
from sealserve.regular_file import InputFileKindError

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


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
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


def test_the_error_for_a_process_that_ends_early_has_its_last_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('error[port.taken]: Port 1 is taken.'); print('bye')"]
    process = Registry(tmp_path / "run.json").start("broker", command, log=tmp_path / "log")
    with pytest.raises(ProcessEndedError, match=r"broker ended before it was ready: error\[port.taken\]") as caught:
        wait_ready(process, lambda: False, seconds=30)
    assert caught.value.code == "process.ended"


def test_a_process_that_is_never_ready(tmp_path: Path) -> None:
    process = Registry(tmp_path / "run.json").start("sleeper", SLEEPER, log=tmp_path / "log")
    with raises(ClusterCode.PROCESS_NOT_READY, match="was not ready") as caught:
        wait_ready(process, lambda: False, seconds=0.1)
    assert caught.value.code == "process.not-ready"
    process.stop()


def test_last_error_of_no_log_and_an_empty_one(tmp_path: Path) -> None:
    assert last_error(tmp_path / "none") == "it has no log."
    (tmp_path / "log").touch()
    assert last_error(tmp_path / "log") == "its log is empty."


def test_a_damaged_record_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    assert Registry(tmp_path / "run.json").all() == {}


def test_a_taken_port_is_named_with_what_it_is_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"Port {port} at 127.0.0.1, for the broker") as caught:
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


def record(path: Path, **changes: object) -> Registry:
    started = start_time(os.getpid())
    row = {"role": "other", "pid": os.getpid(), "started": started, "port": None, "log": "", "boot": boot_id()}
    path.write_text(json.dumps([row | changes]))
    return Registry(path)


@pytest.mark.parametrize(
    "content",
    [
        [1], {"role": "x"}, "text", [{"role": "broker"}], [{"unknown": 1}], None, [[]],
        *([{"role": role, "pid": 5, "started": 1, "port": None, "log": "", "boot": ""}]
          for role in ("", "replica-x", "replica-1\n", "x\n", "../x", "a b", 7)),
        *([{"role": "x", "pid": pid, "started": 1, "port": None, "log": "", "boot": ""}]
          for pid in (1, 0, -1, 2**40, "5", 5.0, True, None)),
        [{"role": "x", "pid": 5, "started": -1, "port": None, "log": "", "boot": ""}],
        [{"role": "x", "pid": 5, "started": 1, "port": 70000, "log": "", "boot": ""}],
        [{"role": "x", "pid": 5, "started": 1, "port": None, "log": 1, "boot": ""}],
        [{"role": "x", "pid": 5, "started": 1, "port": None, "log": "", "boot": "", "owner": 0}],
        *([{"role": "x", "pid": 5, "started": 1, "port": None, "log": "", "boot": "", "phase": phase}]
          for phase in ("", "other", 1, None)),
        [{"role": "x", "pid": 5, "started": 1, "port": None, "log": "", "boot": "", "release": "r" * 256}],
    ],
)  # fmt: skip
def test_a_record_of_another_program_is_a_clear_error(tmp_path: Path, content: object) -> None:
    (tmp_path / "run.json").write_text(json.dumps(content))
    with raises(ClusterCode.PROCESS_RECORD, match="is not a valid record of started processes") as caught:
        Registry(tmp_path / "run.json").all()
    assert caught.value.code == "process.record"
    assert caught.value.hint == "Stop the processes that still run, and remove the file."


@pytest.mark.parametrize("role", ["broker", "replica-0", "replica-12", "kube-apiserver", "containerd-node-1"])
def test_roles_of_a_record(tmp_path: Path, role: str) -> None:
    assert list(record(tmp_path / "run.json", role=role).all()) == [role]


def test_a_deeply_nested_record_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[" * 100_000)
    assert Registry(tmp_path / "run.json").all() == {}


@pytest.mark.timeout(20)
def test_links_and_pipes_in_place_of_record_lock_and_log_are_rejected(tmp_path: Path) -> None:
    registry, victim = Registry(tmp_path / "run.json"), tmp_path / "victim"
    victim.write_text("[]")
    for plant in (os.mkfifo, lambda path: path.symlink_to(victim)):
        for name, use in (
            ("run.json", registry.all),
            ("run.lock", lambda: registry.remove("x")),
            ("log", lambda: registry.start("sleeper", SLEEPER, log=tmp_path / "log")),
        ):
            plant(tmp_path / name)
            with pytest.raises(InputFileKindError):
                use()
            (tmp_path / name).unlink()
    os.link(victim, tmp_path / "log")
    with pytest.raises(InputFileKindError):
        registry.start("sleeper", SLEEPER, log=tmp_path / "log")
    assert victim.read_text() == "[]"
    (tmp_path / "other-log").symlink_to(victim)
    assert last_error(tmp_path / "other-log") == "it has no log."


def test_a_process_of_another_user_is_not_the_recorded_one(tmp_path: Path) -> None:
    found = record(tmp_path / "run.json").all()["other"]
    assert found.is_alive()
    other = type(found)(**{**vars_of(found), "owner": 12345})
    assert not other.is_alive()


def vars_of(process: Process) -> dict[str, Any]:
    return {field.name: getattr(process, field.name) for field in fields(process)}


def test_stopping_does_not_reach_a_process_that_got_the_id_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Registry(tmp_path / "run.json").start("sleeper", SLEEPER, log=tmp_path / "log")
    sent: list[int] = []
    opened = os.pidfd_open

    def racing(pid: int, flags: int = 0) -> int:
        descriptor = opened(pid, flags)
        # The process ends, and another one gets its id, after the descriptor was opened and before the check.
        monkeypatch.setattr(processes, "start_time", lambda _: process.started + 1)
        return descriptor

    monkeypatch.setattr(os, "pidfd_open", racing)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda _, number: sent.append(number))
    process.stop(grace=0)
    assert sent == []
    monkeypatch.undo()
    process.stop()
    assert not process.is_alive()


@pytest.mark.parametrize("pid", [1, 0, -1])
def test_ids_that_stand_for_more_than_one_process_get_no_signal(pid: int) -> None:
    assert not send_signal(pid, signal.SIGCONT, if_still=lambda: True)
    process = Process(role="x", pid=pid, started=start_time(1) or 0, port=None, log="")
    assert not process.is_alive()
    assert not process.owns_group()
    process.stop(grace=0)


def test_a_process_that_has_ended_gets_no_signal() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert not send_signal(child.pid, signal.SIGCONT, if_still=lambda: True)
    assert not kill_group(child.pid)
    assert user_of(child.pid) is None
