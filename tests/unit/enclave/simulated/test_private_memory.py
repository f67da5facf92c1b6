import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.simulated import container_tmpfs, mount_namespace, private_memory
from sealserve.enclave.simulated.private_memory import PrivateMemory, PrivateMemoryMethod, wipe

Python = Callable[..., subprocess.CompletedProcess[str]]

USE = """
import logging, os, sys
from pathlib import Path
from sealserve.enclave.simulated.private_memory import private_memory
logging.basicConfig(format="%(message)s", stream=sys.stdout)
{before}
with private_memory("/release") as memory:
    print("method", memory.method)
    print("root", memory.root, oct(memory.root.stat().st_mode & 0o777))
    print("empty", os.listdir(memory.root))
    file = memory.path("/release/models/a")
    file.parent.mkdir()
    file.write_bytes(b"plaintext")
    {inside}
print("after", memory.root.exists() and os.listdir(memory.root))
"""
# The relevant effect of a container's default seccomp profile: unshare returns EPERM (x86-64).
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

    assert "method mount-namespace\nroot /release 0o700\nempty []\n" in output
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

    assert "method container-tmpfs\nroot /release 0o700\nempty []\n" in output
    assert output.endswith("after []\n")


OWN_TMPFS = (
    "from sealserve.enclave.simulated.mount_namespace import enter\n"
    "enter('/release')\nPath('/release/other').write_text('of another enclave')\n"
)


@needs_x86_64
@pytest.mark.usefixtures("namespace")
def test_a_tmpfs_that_others_may_enter_is_closed_to_them(python: Python) -> None:
    output = run(python, before=OWN_TMPFS + "os.chmod('/release', 0o1777)" + NO_UNSHARE)

    assert "method container-tmpfs\nroot /release 0o700\nempty []\n" in output


@needs_x86_64
@pytest.mark.usefixtures("namespace")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_tmpfs_of_another_user_is_not_taken(python: Python) -> None:
    output = run(python, before=OWN_TMPFS + "os.chown('/release', 65534, 65534)" + NO_UNSHARE)

    assert "method shared-memory-folder" in output
    assert "and the tmpfs at /release belongs to user 65534, not to 0: /dev/shm/sealserve-" in output


def test_a_tmpfs_of_ours_that_cannot_be_written_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: "22 1 0:1 / /tmp rw - tmpfs none rw")
    monkeypatch.setattr(os, "geteuid", lambda: Path("/tmp").stat().st_uid)  # noqa: S108  # nothing is written there
    monkeypatch.setattr(os, "access", lambda *_: False)

    assert container_tmpfs.why_not("/tmp") == "the tmpfs at /tmp cannot be written"  # noqa: S108  # nor here


@needs_x86_64
@pytest.mark.usefixtures("namespace")
def test_a_second_enclave_leaves_the_tmpfs_to_the_one_that_has_it(python: Python) -> None:
    hold = """
ours, theirs = os.pipe(), os.pipe()
if os.fork() == 0:
    with private_memory("/release") as memory:
        memory.path("/release/other").write_text("of another enclave")
        os.write(ours[1], b"+")
        os.close(theirs[1])
        os.read(theirs[0], 1)
        print("kept", os.listdir("/release"), flush=True)
    os._exit(0)
os.read(ours[0], 1)
"""
    release = "os.write(theirs[1], b'+'); os.wait()"

    output = run(python, before=OWN_TMPFS + NO_UNSHARE + hold, inside=release)

    assert "method shared-memory-folder" in output
    assert "and another enclave uses the tmpfs at /release: /dev/shm/sealserve-" in output
    assert "kept ['other']" in output


@needs_x86_64
@pytest.mark.usefixtures("namespace")
def test_a_tmpfs_is_free_again_when_its_enclave_was_killed(python: Python) -> None:
    killed = """
if os.fork() == 0:
    with private_memory("/release"):
        os.kill(os.getpid(), 9)
os.wait()
"""

    output = run(python, before=OWN_TMPFS + NO_UNSHARE + killed)

    assert output.count("method container-tmpfs") == 1
    assert "shared" not in output


ROOM = """
from sealserve.enclave.simulated import private_memory as module
module._free = lambda folder: {free}
module.private_memory = private_memory
private_memory = lambda inside: module.private_memory(inside, needed=100 * 2**20)
"""


REFUSED_FOR_ROOM = """
import os
from pathlib import Path
from sealserve.errors import UnavailableError
from sealserve.enclave.simulated.private_memory import private_memory
{before}
try:
    private_memory("/release").__enter__()
except UnavailableError as error:
    print(error.code, error.message, error.hint, sep="\\n")
"""


@needs_x86_64
@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize(
    ("before", "method", "fixes"),
    [
        (
            NO_UNSHARE,
            "shared-memory-folder",
            ("--tmpfs /release:size=116m,mode=0700,uid=", "--shm-size=116m", "run as root"),
        ),
        (OWN_TMPFS + NO_UNSHARE, "container-tmpfs", ("--tmpfs /release:size=116m,mode=0700,uid=",)),
        ("", "mount-namespace", ("half of the machine's memory",)),
    ],
)
def test_too_little_room_is_said_before_anything_is_written(
    python: Python, before: str, method: str, fixes: tuple[str, ...]
) -> None:
    room = ROOM.format(free=64 * 2**20)

    result = python(REFUSED_FOR_ROOM.format(before=before + room))

    assert result.returncode == 0, result.stderr
    code, message, hint = result.stdout.splitlines()
    assert code == "enclave.private-memory-room"
    assert message.startswith("The private memory is too small: the release needs 100.0 MiB, and /")
    assert f"({method}" in message
    assert message.endswith("has 64.0 MiB free.")
    assert all(fix in hint for fix in fixes)
    if method == "shared-memory-folder":
        root = re.search(r"and (/\S+) \(shared", message)
        assert root is not None
        assert not Path(root[1]).exists()


def test_free_room_is_what_the_file_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert private_memory._free(tmp_path) == pytest.approx(found.f_bavail * found.f_frsize, rel=0.5)

    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255)))
    assert private_memory._free(tmp_path) == float("inf"), "a tmpfs mounted with size=0 has no bound"


def test_of_two_places_in_shared_memory_the_one_with_room_is_taken(python: Python, tmp_path: Path) -> None:
    before = f"""
os.environ["XDG_RUNTIME_DIR"] = {str(tmp_path)!r}
""" + ROOM.format(free=f"2**40 if str(folder).startswith({str(tmp_path)!r}) else 64 * 2**20")

    output = run(python, before=REFUSE + before)

    assert f"root {tmp_path}/sealserve-" in output


def test_who_can_look_in_is_said_of_each_way() -> None:
    assert PrivateMemoryMethod.USER_NAMESPACE.note == (
        "mount namespace in a user namespace: other processes of this user can read it"
    )
    assert "other processes of this user can read" in PrivateMemoryMethod.SHARED.note
    assert PrivateMemoryMethod.NAMESPACE.note == PrivateMemoryMethod.CONTAINER.note == ""


@pytest.mark.parametrize(
    ("user", "method"), [(0, PrivateMemoryMethod.NAMESPACE), (1000, PrivateMemoryMethod.USER_NAMESPACE)]
)
def test_without_root_the_namespace_is_in_a_user_namespace(
    monkeypatch: pytest.MonkeyPatch, user: int, method: PrivateMemoryMethod
) -> None:
    monkeypatch.setattr(mount_namespace, "why_not", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: user)

    assert private_memory.available_method("/release") == (method, "")


@needs_x86_64
def test_else_a_folder_in_shared_memory_is_taken_and_said_so(python: Python) -> None:
    output = run(
        python,
        before=NO_UNSHARE,
        inside="print('translated', memory.translate('--base=/release/models/x'))",
    )

    root = re.search(r"^root (/dev/shm/sealserve-\w+) 0o700$", output, re.MULTILINE)
    assert root is not None, output
    assert "method shared-memory-folder" in output
    assert (
        "no mount namespace available (Operation not permitted (unshare)), and no tmpfs is mounted at /release"
        in output
    )
    assert f"{root[1]} replaces it in arguments and environment, and other processes of this user can" in output
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

    with raises(
        EnclaveCode.PRIVATE_MEMORY, match=r"namespace available \(Operation not permitted.*mount a tmpfs at /x"
    ) as caught:
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
    memory = PrivateMemory(inside="/release", root=Path("/dev/shm/x"), method=PrivateMemoryMethod.SHARED)  # noqa: S108  # only a text

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
