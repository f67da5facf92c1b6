import subprocess
import sys

_PROGRAM = """
import os
import sys
import sealserve.cli.enclave
import sealserve.enclave.simulated.launcher
print("numpy" in sys.modules, len(os.listdir("/proc/self/task")))
"""


def test_the_launcher_has_a_single_thread() -> None:
    """With several threads, the launcher could not enter a mount namespace. numpy starts one for each processor."""
    done = subprocess.run([sys.executable, "-I", "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]
