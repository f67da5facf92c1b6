import subprocess
import sys
from collections.abc import Callable

import pytest

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def python() -> Python:
    """Give a function that runs Python code in a process of its own, which may move into a namespace."""

    def run(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=timeout
        )

    return run


@pytest.fixture
def namespace(python: Python) -> None:
    """Skip where no mount namespace is to be had."""
    code = "from sealserve.enclave.simulated.mount_namespace import why_not; print(why_not('/release') or '')"
    result = python(code)
    assert result.returncode == 0, result.stderr
    if reason := result.stdout.strip():
        pytest.skip(f"no mount namespace here ({reason}); run as root, or allow user namespaces")
