"""Install clients of other projects into ``build/`` for the tests of the model server's APIs.

They are tritonclient, KServe's clients, and the client of gRPC reflection. Versions and digests of all packages are in
``testbed/stock_clients/clients.lock``, which names no index.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from scripts.provide import provide

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "testbed" / "stock_clients"
LOCK = SOURCE / "clients.lock"
FOLDER = ROOT / "build" / "stock-clients"
PYTHON = FOLDER / "bin" / "python"
_STAMP = FOLDER / "clients.lock"


def installed() -> bool:
    """Return whether the packages of the current lock file are installed."""
    return PYTHON.exists() and _STAMP.exists() and _STAMP.read_bytes() == LOCK.read_bytes()


def main() -> None:
    """Install the packages unless they are installed."""
    provide("stock-clients", __doc__, is_available=installed, install=_install, place=FOLDER)


def _install() -> str | None:
    uv = str(Path(sys.executable).with_name("uv"))
    shutil.rmtree(FOLDER, ignore_errors=True)
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(FOLDER)],
        [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(PYTHON), str(LOCK)],
    ):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            shutil.rmtree(FOLDER, ignore_errors=True)
            return f"`uv` failed: {' '.join(ended.stderr.split())[-300:]}"
    shutil.copyfile(LOCK, _STAMP)
    return None


if __name__ == "__main__":
    main()
