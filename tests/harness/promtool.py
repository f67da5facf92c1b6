"""promtool, as the tests of alert rules need it, and Prometheus itself."""

import shutil
import subprocess
from pathlib import Path

import pytest
from scripts.promtool import PROMETHEUS, PROMTOOL, unpack
from tests.harness.missing import missing


def promtool(*arguments: str | Path, given: str | None = None) -> str:
    """Return what promtool prints; the test fails if promtool does."""
    program = shutil.which("promtool") or (str(PROMTOOL) if PROMTOOL.exists() else None)
    if program is None:
        pytest.skip("promtool is missing: `make promtool` gets it (Debian, Ubuntu)")
    command = [program, *map(str, arguments)]
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def prometheus() -> Path:
    """Return the program: this machine's, or Debian's, which is downloaded if it is not there."""
    if (installed := shutil.which("prometheus")) is not None:
        return Path(installed)
    if not PROMETHEUS.exists() and (problem := unpack()) is not None:
        missing(f"prometheus: {problem}")
    return PROMETHEUS
