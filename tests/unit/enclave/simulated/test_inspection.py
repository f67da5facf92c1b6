import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.simulated import inspection
from sealserve.enclave.simulated.inspection import forbid_inspection

Python = Callable[..., subprocess.CompletedProcess[str]]

DUMPED = """
import os, resource, sys
from pathlib import Path
from sealserve.enclave.simulated.inspection import forbid_core_dumps
os.chdir(sys.argv[1])
{before}
forbid_core_dumps()
if (child := os.fork()) == 0:
    os.execv(sys.executable, [sys.executable, "-c", '''
import os, resource
print(resource.getrlimit(resource.RLIMIT_CORE), int(open("/proc/self/coredump_filter").read(), 16), flush=True)
os.abort()
'''])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
CANNOT_RAISE = """
real = resource.setrlimit
def setrlimit(what, limits):
    if limits != (0, 0):
        raise ValueError("not allowed to raise maximum limit")
    real(what, limits)
resource.setrlimit = setrlimit
"""
DROP = "os.setgroups([]); os.setgid(65534); os.setuid(65534); libc.prctl(4, 1, 0, 0, 0)"
LOOK = f"""
import ctypes, encodings.ascii, os, sys  # no import works below, if another user may not read this Python
from pathlib import Path
from sealserve.cluster import ports
from sealserve.enclave.simulated.inspection import forbid_inspection
libc = ctypes.CDLL(None)
os.chdir("/")
if os.geteuid() == 0:
    {DROP}
ready, done = os.pipe(), os.pipe()
if (launcher := os.fork()) == 0:
    os.setsid()
    os.close(done[1])
    forbid_inspection()
    code = '''
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
os.write(int(sys.argv[1]), b"%d %d" % (listener.getsockname()[1], os.getpid()))
os.read(int(sys.argv[2]), 1)
'''
    if (server := os.fork()) == 0:
        os.set_inheritable(ready[1], True)
        os.set_inheritable(done[0], True)
        os.execv("/usr/bin/python3", ["python3", "-I", "-c", code, str(ready[1]), str(done[0])])
    os.waitpid(server, 0)
    os._exit(0)
port, server = os.read(ready[0], 100).decode().split()
for name, pid in (("launcher", launcher), ("server", server)):
    try:
        os.readlink(f"/proc/{{pid}}/root")
        print(name, "readable")
    except PermissionError:
        print(name, "closed")
print("listening", ports.is_listening(int(port), session=launcher))
os.write(done[1], b"+")
os.wait()
"""


@pytest.mark.parametrize(
    ("before", "limits"),
    [
        ("", "(1, 1)"),
        (CANNOT_RAISE, "(0, 0)"),
    ],
)
def test_no_core_dump_is_left(python: Python, tmp_path: Path, before: str, limits: str) -> None:
    result = python(DUMPED.format(before=before), str(tmp_path))

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"{limits} 0", "-6"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs a Python that every user may run")
def test_others_of_this_user_look_into_the_server_only_so_that_it_is_seen_to_listen(python: Python) -> None:
    result = python(LOOK)

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["launcher closed", "server readable", "listening True"]


def test_a_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_LIBC", SimpleNamespace(prctl=lambda *_: -1))
    monkeypatch.setattr(ctypes, "get_errno", lambda: 1)

    with raises(EnclaveCode.INSPECTION, match=r"prctl\(PR_SET_DUMPABLE, 0\) failed: .* not permitted") as e:
        forbid_inspection()

    assert e.value.code == "enclave.inspection"
    assert os.strerror(1) in str(e.value)
