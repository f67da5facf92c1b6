"""The supervisor starts and restarts parts. The tests use real processes that do nothing."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tomli_w
from tests.harness.errors import raises
from tests.harness.workspaces import make_site

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.deployment_lock import held
from sealserve.cluster.local import service_settings
from sealserve.cluster.local.owner_services import registry
from sealserve.cluster.local.processes import Process, Registry, wait_until
from sealserve.cluster.local.supervision import restart, restart_history, supervisor
from sealserve.cluster.local.supervision.requests import Supervision
from sealserve.cluster.local.supervision.restarts import Restarts, Supervised, read_restarts
from sealserve.cluster.local.supervision.supervised_part import Part, start_part
from sealserve.deployment import read
from sealserve.process_signal import facts_of
from sealserve.workspace import Workspace

_SECONDS = 120
"""Timeout in seconds for expected events. Tests do not wait for it otherwise."""
_SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
_PROGRAM = (
    "import sys; from sealserve.cluster.local.supervision.supervisor import main; main(sys.argv[1:], first_pause=0.01)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A workspace with a running supervisor, whose pauses are short."""

    workspace: Workspace
    process: "subprocess.Popen[str]"
    log: Path

    @property
    def record(self) -> Registry:
        """The record of the workspace's processes."""
        return registry(self.workspace)

    @property
    def supervision(self) -> Supervision:
        """The client of the supervisor."""
        return Supervision(self.workspace.host.run)

    def start(self, role: str = "broker", command: list[str] = _SLEEP) -> Process:
        """Start a part."""
        return self.record.start(role, command, log=self.workspace.host.logs / f"{role}.log")

    def restarts(self, role: str = "broker") -> Restarts | None:
        """Return the supervisor's entry about a part."""
        return read_restarts(self.workspace, self.record.all()[role])

    def wait_for_another(self, before: Process) -> Process:
        """Wait until a part has a new process, and return it."""
        assert wait_until(lambda: self.record.all()[before.role] != before, seconds=_SECONDS), self.log.read_text()
        return self.record.all()[before.role]

    def wait_until_settled(self) -> None:
        """Wait until the supervisor has handled all earlier events: it restarts a different part that ends now."""
        marker = self.start("marker")
        os.kill(marker.pid, signal.SIGKILL)
        self.wait_for_another(marker)


def start_supervisor(workspace: Workspace) -> Place:
    log = workspace.host.logs / "supervisor.log"
    with log.open("a", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "--directory", str(workspace.directory)],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, text=True,
        )  # fmt: skip
    made = Place(workspace=workspace, process=process, log=log)
    assert wait_until(made.supervision.is_there, seconds=_SECONDS), log.read_text()
    return made


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    workspace = Workspace(tmp_path / ("a folder with a name that is too long for the address of a Unix socket" * 2))
    workspace.directory.mkdir()
    workspace.create()
    made = start_supervisor(workspace)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        for process in made.record.all().values() if (made.workspace.host.run).is_dir() else ():
            process.stop(grace=0)


def test_a_part_that_is_killed_is_started_again(here: Place) -> None:
    before = here.start()
    assert before.is_alive()
    found = facts_of(before.pid)
    assert found is not None
    assert (found.parent, found.session) == (here.process.pid, before.pid)
    os.kill(before.pid, signal.SIGKILL)
    after = here.wait_for_another(before)
    assert after.is_alive()
    assert (after.role, after.log, after.port) == (before.role, before.log, before.port)
    told = here.restarts()
    assert told is not None
    assert (told.state, told.restarts, told.last_exit) == (Supervised.RUNNING, 1, "ended by signal 9 (SIGKILL)")
    assert told.last_exit_at is not None
    assert "broker ended by signal 9 (SIGKILL). It will be restarted in" in here.log.read_text()


def test_a_part_that_ends_by_itself_is_started_again(here: Place, tmp_path: Path) -> None:
    script = f"import os, pathlib, sys, time; p = pathlib.Path({str(tmp_path / 'once')!r})\n"
    script += "if not p.exists(): p.touch(); sys.exit(3)\ntime.sleep(300)"
    before = here.start("platform", [sys.executable, "-c", script])
    here.wait_for_another(before)
    told = here.restarts("platform")
    assert told is not None
    assert told.last_exit == "ended with exit status 3"


def test_a_part_that_ends_at_once_is_given_up(here: Place) -> None:
    with held(here.workspace, "up"):  # as commands do, because a part may end before it is recorded
        here.start("broker", [sys.executable, "-c", "print('no')"])

    def given_up() -> bool:
        return (told := here.restarts()) is not None and told.state is Supervised.FAILED

    assert wait_until(given_up, seconds=_SECONDS), here.log.read_text()
    told = here.restarts()
    assert told is not None
    assert told.restarts == supervisor.ATTEMPTS
    assert "broker ended with exit status 0. It failed 9 times in a row and stays down. Run `sealserve up`" in (
        here.log.read_text()
    )
    assert Path(here.record.all()["broker"].log).read_text() == "no\n" * (1 + supervisor.ATTEMPTS)
    # The next start on purpose counts from the beginning.
    before = here.start()
    assert (told := here.restarts()) is not None
    assert (told.state, told.restarts, told.last_exit) == (Supervised.RUNNING, 0, "")
    os.kill(before.pid, signal.SIGTERM)
    here.wait_for_another(before)


def test_pauses_grow_up_to_a_limit() -> None:
    watching = supervisor.Supervisor(Path("/nowhere"))
    part = Part(role="x", command=[], directory=None, pid=2, started=0)
    pauses = []
    for _ in range(10):
        now = time.monotonic()
        watching._plan(part)
        assert part.due is not None
        pauses.append(round(part.due - now))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_a_part_that_was_stopped_on_purpose_stays_down(here: Place) -> None:
    process = here.start()
    with held(here.workspace, "scale"):
        process.stop(grace=0)
        here.record.remove("broker")
    here.wait_until_settled()
    assert set(here.record.all()) == {"marker"}
    assert "broker" not in here.log.read_text()
    assert set(json.loads((here.workspace.host.run / "restarts.json").read_text())["parts"]) == {"marker"}


def test_it_waits_while_a_command_changes_the_deployment(here: Place) -> None:
    process, other = here.start(), here.start("other")
    with held(here.workspace, "scale"):
        os.kill(process.pid, signal.SIGKILL)
        os.kill(other.pid, signal.SIGKILL)
        assert wait_until(lambda: not process.is_alive() and not other.is_alive(), seconds=_SECONDS)
        here.record.remove("broker")  # the command has stopped it
    here.wait_for_another(other)
    here.wait_until_settled()
    assert set(here.record.all()) == {"other", "marker"}


def test_what_a_command_did_while_the_helper_waited_for_the_lock_counts(here: Place) -> None:
    before = here.start()
    here.process.kill()
    here.process.wait()
    os.kill(before.pid, signal.SIGKILL)
    assert wait_until(lambda: not before.is_alive(), seconds=_SECONDS)
    assert restart.restart(here.workspace, before.pid, before.started + 1) is None
    here.record.remove("broker")
    assert restart.restart(here.workspace, before.pid, before.started) is None
    # Without a supervisor, the restart program ends with an error, and the part stays in the record.
    here.record.add(before)
    with raises(ClusterCode.SUPERVISOR_NO_ANSWER, match="broker cannot be restarted") as caught:
        restart.restart(here.workspace, before.pid, before.started)
    assert caught.value.code == "supervisor.no-answer"
    assert restart.main([str(here.workspace.directory), str(before.pid), str(before.started)]) == 1
    assert here.record.all()["broker"] == before


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "null", "[" * 100_000, "[1]", '{"a": 1}', "[{}]", '[{"pid": "x"}]', "\0",
        '[{"pid": [], "started": {}}]',
        '[{"role": "broker", "pid": 1, "started": 1, "command": ["touch", "planted"]}]',
    ],
)  # fmt: skip
def test_a_hostile_record_starts_nothing(here: Place, content: str) -> None:
    process = here.start()
    path = here.workspace.host.run / "local.json"
    path.write_text(content)
    part = Part(role="broker", command=_SLEEP, directory=None, pid=process.pid, started=process.started)
    assert not supervisor.Supervisor(here.workspace.directory)._is_wanted(part)
    (here.workspace.host.run / "restarts.json").write_text(content)
    assert read_restarts(here.workspace, process) is None
    os.kill(process.pid, signal.SIGKILL)
    assert wait_until(lambda: not process.is_alive(), seconds=_SECONDS)
    assert here.supervision.is_there()  # it has handled the end, and continues
    assert not list(here.workspace.directory.rglob("planted"))
    path.unlink()


def send(here: Place, content: bytes) -> bytes:
    with supervisor.short_path(here.workspace.host.run) as folder, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / supervisor.SOCKET))
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1000)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, b'{"do": "x"}', b'{"do": []}', b'{"do": "start"}',
        b'{"do": "start", "role": "x", "command": ["/bin/true"], "directory": null}', b'{"do": "again", "pid": 1}',
        b'{"do": "again", "pid": []}', b'{"do": "adopt"}', b'{"do": "adopt", "pid": "../1", "started": 0, "role": 1}',
    ],
)  # fmt: skip
def test_an_invalid_request_changes_nothing(here: Place, content: bytes) -> None:
    assert send(here, content) == b""
    assert here.supervision.is_there()
    assert "a request was dropped: " in here.log.read_text()


def test_the_socket_is_for_our_user_only(here: Place) -> None:
    here.start()
    for name in (supervisor.SOCKET, "restarts.json"):
        assert (here.workspace.host.run / name).stat().st_mode & 0o777 == 0o600


def test_a_program_that_is_missing_is_the_commands_error(here: Place) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/program"):
        here.start("broker", ["/no/such/program"])
    assert here.record.all() == {}


def test_the_environment_of_a_part_is_the_supervisors(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALSERVE_TEST_SECRET", "secret-in-the-environment")
    process = here.start("x", [sys.executable, "-c", "import os; print(os.environ.get('SEALSERVE_TEST_SECRET'))"])
    assert wait_until(lambda: Path(process.log).read_text() != "", seconds=_SECONDS)
    assert Path(process.log).read_text().startswith("None\n")
    for path in here.workspace.root.rglob("*"):
        assert not path.is_file() or b"secret-in-the-environment" not in path.read_bytes()


def test_nginx_gets_no_sockets_of_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGINX", "3;4;")
    command = [sys.executable, "-c", "import os; print(os.environ.get('NGINX'))"]
    Registry(tmp_path / "local.json").start("nginx", command, log=tmp_path / "log")
    assert wait_until(lambda: (tmp_path / "log").read_text() != "", seconds=_SECONDS)
    assert (tmp_path / "log").read_text() == "None\n"


def test_the_next_supervisor_watches_what_an_earlier_one_started(here: Place) -> None:
    first = here.start()
    os.kill(first.pid, signal.SIGKILL)
    second = here.wait_for_another(first)
    here.process.kill()
    here.process.wait()
    assert not here.supervision.is_there()
    assert second.is_alive()
    assert (told := here.restarts()) is not None
    assert told.restarts == 1
    again = start_supervisor(here.workspace)
    try:
        here.record.adopt(second, _SLEEP)
        here.record.adopt(second, _SLEEP)  # adopting it once is sufficient
        assert (told := here.restarts()) is not None
        assert told.restarts == 1
        os.kill(second.pid, signal.SIGKILL)
        third = again.wait_for_another(second)
        assert third.is_alive()
        assert (told := here.restarts()) is not None
        assert (told.restarts, told.last_exit) == (
            2, "ended; its exit status is unknown, because an earlier supervisor started it",
        )  # fmt: skip
    finally:
        again.process.kill()
        again.process.wait()


def test_a_process_that_has_ended_is_not_adopted(here: Place) -> None:
    gone = here.start()
    with held(here.workspace, "scale"):
        gone.stop(grace=0)
        here.record.remove("broker")
    here.wait_until_settled()
    here.record.adopt(gone, _SLEEP)
    assert "broker" not in json.loads((here.workspace.host.run / "restarts.json").read_text())["parts"]


def test_a_second_supervisor_ends(here: Place) -> None:
    second = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "--directory", str(here.workspace.directory)],
        capture_output=True, text=True, check=False, timeout=_SECONDS,
    )  # fmt: skip
    assert second.returncode == 1
    assert second.stderr == "Another supervisor of this workspace is already running.\n"
    assert here.supervision.is_there()


def test_it_ends_when_the_workspace_is_removed(here: Place) -> None:
    process = here.start()
    (here.workspace.host.run / supervisor.SOCKET).unlink()
    os.kill(process.pid, signal.SIGKILL)  # an event lets it look at once; otherwise it looks from time to time
    here.process.wait(timeout=_SECONDS)
    assert "the workspace was removed: the supervisor ends" in here.log.read_text()


def test_entries_of_another_boot_are_ignored(here: Place) -> None:
    process = here.start()
    assert here.restarts() is not None
    path = here.workspace.host.run / "restarts.json"
    content: Mapping[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "boot": "another"}))
    assert read_restarts(here.workspace, process) is None


def test_it_imports_neither_pydantic_nor_numpy() -> None:
    large = {"pydantic", "numpy", "cryptography", "ssl"}
    code = f"import sys, sealserve.cluster.local.supervision.supervisor; print({large} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Refusal:
    """A call that fails until the machine has the resource again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0

    def __call__(self, *_arguments: object, **_options: object) -> Any:
        self.count += 1
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture
def watching(tmp_path: Path) -> supervisor.Supervisor:
    """A supervisor in this process, for situations that no real process can cause."""
    workspace = Workspace(tmp_path / "w")
    workspace.directory.mkdir()
    workspace.create()
    return supervisor.Supervisor(workspace.directory)


def ended_part() -> Part:
    part = Part(role="broker", command=_SLEEP, directory=None, pid=2**22 - 1, started=1)
    part.due, part.last_exit = time.monotonic(), "ended with exit status 1"
    return part


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.ENOENT])
def test_a_restart_that_the_machine_refuses_is_planned_again(
    watching: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(subprocess, "Popen", refusal := Refusal(number))
    part = watching._parts[1] = ended_part()
    before = part.due
    watching._help(part)
    assert refusal.count == 1
    assert (part.helper, part.failures) == (None, 1)
    assert part.due is not None
    assert before is not None
    assert part.due > before
    assert f"broker cannot be restarted now: {os.strerror(number)}" in caplog.text


def test_a_helper_that_cannot_be_watched_is_ended(
    watching: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pidfd_open", Refusal(errno.EMFILE))
    part = ended_part()
    watching._help(part)  # a child that is left would cause a warning, which is an error
    assert (part.helper, part.failures) == (None, 1)


def test_a_part_that_cannot_be_watched_does_not_run(
    watching: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "pidfd_open", Refusal(errno.EMFILE))
    started: list[Part] = []

    def start(*arguments: Any) -> Part:
        started.append(start_part(*arguments))
        return started[-1]

    monkeypatch.setattr(supervisor, "start_part", start)
    request = {"do": "start", "role": "broker", "command": _SLEEP, "directory": None}
    with (tmp_path / "log").open("wb") as log:
        assert watching._answer(request, [log.fileno()])["errno"] == errno.EMFILE
        assert watching._parts == {}
        before = watching._parts[1] = ended_part()
        assert watching._answer({"do": "again", "pid": 1}, [log.fileno()])["errno"] == errno.EMFILE
    assert watching._parts == {1: before}  # the restart can be attempted again
    assert [facts_of(part.pid) for part in started] == [None, None]


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EMFILE])
def test_a_part_that_ends_while_it_is_adopted_is_forgotten(
    watching: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "pidfd_open", Refusal(number))
    found = facts_of(os.getpid())
    assert found is not None
    request = {"do": "adopt", "role": "broker", "pid": os.getpid(), "started": found.started, "command": _SLEEP}
    assert watching._answer(request, []) == {}
    assert watching._parts == {}


def test_a_request_that_cannot_be_accepted_ends_nothing(
    watching: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)
    listener = cast(socket.socket, SimpleNamespace(accept=Refusal(errno.EMFILE)))
    watching._accept(listener)
    assert paused == [supervisor._POLL]
    assert "a request cannot be accepted now: Too many open files" in caplog.text


def test_a_record_that_cannot_be_read_for_now_forgets_no_part(
    watching: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not watching._is_wanted(ended_part())  # the record does not exist
    monkeypatch.setattr(Path, "read_bytes", Refusal(errno.EMFILE))
    assert watching._is_wanted(ended_part())
    monkeypatch.setattr(restart_history, "boot_id", Refusal(errno.EMFILE))
    watching._history.note(ended_part(), restart_history.RUNNING)  # a report that cannot be written is not an error


def test_a_crash_does_not_apply_an_edit_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path / "site")
    workspace = site.workspace
    file = workspace.deployment_file
    applied = file.read_text()
    service_settings.remember(workspace, read(file), "broker")
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        facts = facts_of(child.pid)
        child.kill()
    assert facts is not None
    log = workspace.host.logs / "broker.log"
    ended = Process(role="broker", pid=child.pid, started=facts.started, port=None, log=str(log))
    registry(workspace).add(ended)
    monkeypatch.setattr(Registry, "start_again", lambda _self, found: found)
    assert restart.restart(workspace, ended.pid, ended.started) == ended
    file.write_text(tomli_w.dumps({**(settings := tomllib.loads(applied)), "broker": {
        **settings.get("broker", {}), "port": 5999}}))  # fmt: skip
    with raises(ClusterCode.SUPERVISOR_SETTINGS_CHANGED, match="broker is not restarted") as caught:
        restart.restart(workspace, ended.pid, ended.started)
    assert caught.value.code == "supervisor.settings-changed"
    assert restart.main([str(workspace.directory), str(ended.pid), str(ended.started)]) == 1
    assert "Apply the change with `sealserve up`" in caplog.text
    file.write_text(applied)
    assert restart.restart(workspace, ended.pid, ended.started) == ended
