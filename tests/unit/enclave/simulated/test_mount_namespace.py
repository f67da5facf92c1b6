import os
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sealserve.enclave.simulated import mount_namespace

Python = Callable[..., subprocess.CompletedProcess[str]]

INSIDE = """
import os, subprocess, sys
from pathlib import Path
from sealserve.enclave.simulated.mount_namespace import enter, why_not
if sys.argv[2:]:
    import ctypes
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which setuid took away: /proc/self is ours again
os.chdir(sys.argv[1])
if reason := why_not("/release"):
    print("refused", reason); sys.exit()
before = {entry.name for entry in os.scandir("/")}
enter("/release")
print("cwd", os.getcwd() == sys.argv[1])
print("same", {entry.name for entry in os.scandir("/")} - {"release"} == before - {"release"})
print("mode", oct(Path("/release").stat().st_mode & 0o7777), Path("/release").stat().st_uid == os.getuid())
print("empty", os.listdir("/release"))
Path("/release/secret").write_text("plaintext")
print("host", Path(sys.argv[1], "file").read_text())
try:
    Path("/new").write_text("")
except OSError as error:
    print("root", error.strerror)
print("child", os.popen("cat /release/secret; test -e /dev/null && test -e /proc/self && echo +").read().strip())
print("caps", [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0])
child = os.popen("grep CapEff /proc/self/status").read().split()[1]
print("childcaps", child)
"""


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("unprivileged", [False, True])
def test_a_private_folder_appears_for_this_process_and_its_children_only(python: Python, *, unprivileged: bool) -> None:
    if unprivileged and os.geteuid() != 0:
        pytest.skip("the other case runs unprivileged already")
    with tempfile.TemporaryDirectory() as folder:  # unlike tmp_path, it can be opened to other users
        Path(folder).chmod(0o755)
        Path(folder, "file").write_text("of the host")
        result = python(INSIDE, folder, *(["unprivileged"] if unprivileged else []))

    assert result.returncode == 0, result.stderr
    if result.stdout.startswith("refused"):
        pytest.skip(f"an unprivileged user may not do it here: {result.stdout.strip()}")
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert lines["cwd"] == lines["same"] == "True"
    assert lines["mode"] == "0o700 True"
    assert lines["empty"] == "[]"
    assert lines["host"] == "of the host"
    assert lines["root"] == "Read-only file system"
    assert lines["child"] == "plaintext+"
    if unprivileged:
        assert int(lines["childcaps"], 16) == 0, "a started program has no privilege from the user namespace"
    assert not Path("/release").exists()
    assert not Path("/.old-root").exists()


def test_several_threads_are_a_reason_not_to() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert mount_namespace.why_not("/release") == "the process has several threads"
    finally:
        stop.set()
        thread.join()


def test_the_reason_of_a_refusal_comes_from_the_attempt(python: Python) -> None:
    code = """
from sealserve.enclave.simulated import mount_namespace
def refuse(private):
    raise PermissionError(1, "Operation not permitted", "unshare")
mount_namespace.enter = refuse
print(mount_namespace.why_not("/release"))
"""

    assert python(code).stdout == "Operation not permitted (unshare)\n"
