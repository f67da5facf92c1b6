import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.deployment_lock import held, holder
from sealserve.regular_file import InputFileKindError
from sealserve.workspace import Workspace

_HOLD = """
import sys, time
from pathlib import Path
from sealserve.cluster.deployment_lock import held
from sealserve.workspace import Workspace
with held(Workspace(Path(sys.argv[1])), "up"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A different process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_busy_lock_names_the_command_that_holds_it(workspace: Workspace, other: subprocess.Popen[str]) -> None:
    named = rf"by `sealserve up` \(pid {other.pid}, since .* UTC\)"
    with raises(ClusterCode.DEPLOYMENT_BUSY, match=named), held(workspace, "down", seconds=0):
        pass  # pragma: no cover
    found = holder(workspace)
    assert found is not None
    assert (found.pid, found.verb) == (other.pid, "up")


def test_a_waiting_command_names_the_holder_once(workspace: Workspace, other: subprocess.Popen[str]) -> None:
    lines: list[str] = []
    late = "still being changed after 2 s"
    with raises(ClusterCode.DEPLOYMENT_BUSY, match=late), held(workspace, "down", seconds=2, tell=lines.append):
        pass  # pragma: no cover
    assert [line.split(", ")[0] for line in lines] == [f"waiting for `sealserve up` (pid {other.pid}"]


def test_a_killed_holder_frees_the_lock(workspace: Workspace, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    with held(workspace, "down"):  # waits until the kernel has ended it
        pass
    other.wait()
    assert holder(workspace) is None


def test_the_description_of_a_killed_holder_is_ignored(workspace: Workspace) -> None:
    workspace.root.mkdir()
    # This process runs, but it is not the process that started at that time.
    content = {"pid": os.getpid(), "started": 1, "verb": "up", "since": "2026-01-01T00:00:00Z"}
    (workspace.root / "deployment.lock").write_text(json.dumps(content))
    assert holder(workspace) is None


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"[" * 1024, b'{"pid": 1}', b'{"pid": 4711, "verb": "\\u001b[2J"}']
)
def test_a_damaged_description_does_no_harm(workspace: Workspace, content: bytes) -> None:
    workspace.root.mkdir()
    (workspace.root / "deployment.lock").write_bytes(content)
    assert holder(workspace) is None
    with held(workspace, "up"):
        assert holder(workspace) is not None
    assert holder(workspace) is None


def test_threads_take_turns(workspace: Workspace) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with held(workspace, "scale"):
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.02)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_started_process_does_not_inherit_the_lock(workspace: Workspace) -> None:
    with held(workspace, "up"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    with child:
        with held(workspace, "down", seconds=30):  # the kernel may close the descriptor a moment after exec
            assert child.poll() is None
        child.communicate(b"\n")


def test_removing_the_workspace_does_not_bypass_the_lock(workspace: Workspace) -> None:
    with held(workspace, "up"):
        (workspace.root / "deployment.lock").unlink()
        with held(workspace, "down", seconds=0):  # the file is new: the old file can no longer be locked
            assert holder(workspace) is not None


def test_the_lock_file_is_private_and_not_a_link(workspace: Workspace, tmp_path: Path) -> None:
    with held(workspace, "up"):
        path = workspace.root / "deployment.lock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputFileKindError), held(workspace, "up"):
        pass  # pragma: no cover
    assert not (tmp_path / "elsewhere").exists()


def test_reading_the_holder_creates_no_folder(workspace: Workspace) -> None:
    assert holder(workspace) is None
    assert not workspace.root.exists()
