import ctypes
import errno
import resource
import subprocess
import sys

import pytest
from tests.harness.errors import raises

from sealserve.broker import hardening
from sealserve.broker.codes import BrokerCode
from sealserve.broker.hardening import forbid_inspection, lock_memory


def test_a_hardened_process_leaves_no_core_and_is_not_dumpable() -> None:
    script = (
        "import ctypes, resource\n"
        "from sealserve.broker.hardening import forbid_inspection\n"
        "forbid_inspection()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "(0, 0) 0\n"


def test_a_kernel_that_refuses_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        @staticmethod
        def prctl(*_: int) -> int:
            ctypes.set_errno(errno.EPERM)
            return -1

    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing)
    with raises(
        BrokerCode.HARDENING,
        match=r"The broker cannot protect its memory from other processes: prctl\(PR_SET_DUMPABLE, 0\): "
        r"Operation not permitted",
    ) as caught:
        forbid_inspection()
    assert caught.value.code == "broker.hardening"


def test_limits_that_cannot_be_set_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with raises(BrokerCode.HARDENING, match="The broker cannot disable core dumps: not allowed"):
        forbid_inspection()


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY and not hardening._has_capability(14),
    reason="this user may not lock memory: raise RLIMIT_MEMLOCK",
)
def test_memory_is_locked_where_that_is_allowed() -> None:
    script = (
        "from pathlib import Path\n"
        "from sealserve.broker.hardening import lock_memory\n"
        "print(lock_memory(), 'VmLck:\t       0 kB' in Path('/proc/self/status').read_text())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "None False\n"


def test_memory_that_cannot_be_locked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    monkeypatch.setattr(hardening, "_has_capability", lambda _: False)
    assert lock_memory() == "RLIMIT_MEMLOCK is 65536 bytes, and the process lacks CAP_IPC_LOCK"

    class Refusing:
        @staticmethod
        def mlockall(_: int) -> int:
            ctypes.set_errno(1)
            return -1

    monkeypatch.setattr(hardening, "_has_capability", lambda _: True)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing)
    assert lock_memory() == "mlockall: Operation not permitted"
