"""Programs with clients of other projects (`testbed/stock_clients`), run in their own environment."""

import json
import subprocess
from pathlib import Path
from typing import Any

from scripts.stock_clients import PYTHON, SOURCE, installed
from tests.harness.missing import missing
from tests.harness.model_server import LONG


def output(script: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Run a program with the stock clients in a folder; return what it printed."""
    if not installed():
        missing("tritonclient and KServe's clients are missing: `make stock-clients` installs them")
    ended = subprocess.run(
        [PYTHON, script, *arguments], capture_output=True, text=True, check=False, timeout=LONG, cwd=cwd
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def run(script: str, *arguments: str) -> Any:
    """Run a program of the test bed; return the JSON that it printed."""
    return json.loads(output(SOURCE / script, *arguments))
