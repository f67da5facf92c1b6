import ctypes
import resource
import subprocess
import sys

import pytest

from sealserve.broker.hardening import HardeningError, forbid_inspection


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
            return -1

    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing)
    with pytest.raises(HardeningError, match="cannot be made undumpable") as caught:
        forbid_inspection()
    assert caught.value.code == "broker.hardening"


def test_limits_that_cannot_be_set_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(HardeningError, match="Core dumps cannot be turned off: not allowed"):
        forbid_inspection()
