import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sealserve.enclave.simulated import mount_namespace, private_memory
from sealserve.enclave.simulated.private_memory import PrivateMemory, PrivateMemoryError, Way, wipe

Python = Callable[..., subprocess.CompletedProcess[str]]

USE = """
import logging, os, sys
from pathlib import Path
from sealserve.enclave.simulated.private_memory import private_memory
logging.basicConfig(format="%(message)s", stream=sys.stdout)
{before}
with private_memory("/release") as memory:
    print("way", memory.way)
    print("root", memory.root, oct(memory.root.stat().st_mode & 0o777))
    print("empty", os.listdir(memory.root))
    file = memory.path("/release/models/a")
    file.parent.mkdir()
    file.write_bytes(b"plaintext")
    {inside}
print("after", memory.root.exists() and os.listdir(memory.root))
"""
# A container's default seccomp profile, as far as it matters here: unshare gives EPERM (x86-64).
NO_UNSHARE = """
import ctypes, struct
program = [(0x20, 0, 0, 0), (0x15, 0, 1, 272), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
"""
REFUSE = """
from sealserve.enclave.simulated import mount_namespace
mount_namespace.why_not = lambda _: "forced"
"""
needs_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter has x86-64 system call numbers")


def run(python: Python, *, before: str = "", inside: str = "") -> str:
    result = python(USE.format(before=before, inside=inside))
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.usefixtures("namespace")
def test_a_mount_namespace_comes_first(python: Python) -> None:
    output = run(python)

    assert "way mount-namespace\nroot /release 0o700\nempty []\n" in output
    assert output.endswith("after []\n")
    assert not Path("/release").exists()


@needs_x86_64
@pytest.mark.usefixtures("namespace")
def test_in_a_container_its_tmpfs_is_taken_and_emptied_first(python: Python) -> None:
    before = (
        "from sealserve.enclave.simulated.mount_namespace import enter\n"
        "enter('/release')\nPath('/release/old').write_text('of a killed run')" + NO_UNSHARE
    )

    output = run(python, before=before)

    assert "way container-tmpfs\nroot /release 0o700\nempty []\n" in output
    assert output.endswith("after []\n")


@needs_x86_64
def test_else_a_folder_in_shared_memory_is_taken_and_said_so(python: Python) -> None:
    output = run(
        python,
        before=NO_UNSHARE,
        inside="print('translated', memory.translate('--base=/release/models/x'))",
    )

    root = re.search(r"^root (/dev/shm/sealserve-\w+) 0o700$", output, re.MULTILINE)
    assert root is not None, output
    assert "way shared-memory-folder" in output
    assert "no mount namespace here (Operation not permitted (unshare)), and no tmpfs at /release" in output
    assert f"{root[1]} takes its place in arguments and environment, and other processes of this user can" in output
    assert f"translated --base={root[1]}/models/x" in output
    assert output.endswith("after False\n")
    assert not Path(root[1]).exists()


@needs_x86_64
def test_a_folder_in_shared_memory_is_wiped_when_its_process_is_killed(python: Python) -> None:
    kill = "sys.stdout.flush(); os.kill(os.getpid(), 9)"

    result = python(USE.format(before=NO_UNSHARE, inside=kill))  # it returns when the wiping process has ended

    assert result.returncode == -9
    root = re.search(r"^root (\S+)", result.stdout, re.MULTILINE)
    assert root is not None
    assert not Path(root[1]).exists()


def test_it_is_wiped_when_something_fails(python: Python) -> None:
    result = python(USE.format(before=REFUSE, inside='raise RuntimeError("the server failed")'))

    assert "RuntimeError: the server failed" in result.stderr
    root = re.search(r"^root (/dev/shm/sealserve-\w+) 0o700$", result.stdout, re.MULTILINE)
    assert root is not None
    assert not Path(root[1]).exists()


def test_where_nothing_works_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mount_namespace, "why_not", lambda _: "Operation not permitted (unshare)")
    monkeypatch.setattr(private_memory, "_SHARED_MEMORY", tmp_path / "none")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    with pytest.raises(PrivateMemoryError, match=r"refused \(Operation not permitted.*mount a tmpfs at /x") as caught:
        private_memory.private_memory("/x").__enter__()

    assert caught.value.code == "enclave.private-memory"


def test_the_runtime_directory_is_the_last_place(python: Python, tmp_path: Path) -> None:
    before = f"""
from sealserve.enclave.simulated import private_memory as module
module._SHARED_MEMORY = Path({str(tmp_path / "none")!r})
os.environ["XDG_RUNTIME_DIR"] = {str(tmp_path)!r}
"""

    output = run(python, before=REFUSE + before)

    assert f"root {tmp_path}/sealserve-" in output
    assert list(tmp_path.iterdir()) == []


def test_only_the_private_folder_itself_is_translated() -> None:
    memory = PrivateMemory(inside="/release", root=Path("/dev/shm/x"), way=Way.SHARED)  # noqa: S108  # only a text

    assert memory.translate("--a=/release/models,/release") == "--a=/dev/shm/x/models,/dev/shm/x"
    for same in ("/releases", "/opt/release/x", "a/release", "/release-2", "release"):
        assert memory.translate(same) == same
    assert memory.path("/release/tls/ssl.cfg") == Path("/dev/shm/x/tls/ssl.cfg")  # noqa: S108  # only a text


def test_wiping_overwrites_files_and_follows_no_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "a" / "b").mkdir(parents=True)
    (outside / "kept").mkdir(parents=True)
    (folder / "a" / "file").write_bytes(b"x" * 3_000_000)
    (folder / "a" / "file").chmod(0o400)
    (folder / "a" / "link").symlink_to(outside)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    os.link(folder / "a" / "file", outside / "same")

    wipe(folder)

    assert list(folder.iterdir()) == []
    assert (outside / "kept").is_dir()
    assert (outside / "same").read_bytes() == bytes(3_000_000)
