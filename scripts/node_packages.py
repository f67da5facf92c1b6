"""Install the packages of the tests' Node.js programs into ``build/``: a verifier of SGX quotes, and a gRPC client.

The verifier is independent of the Python package dcap-qvl, which is written in Rust. The versions and digests of all
packages are in ``testbed/node/package-lock.json``, which names no index. Scripts of packages do not run.
"""

import shutil
import subprocess
from pathlib import Path

from scripts.provide import provide

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "testbed" / "node"
VERIFY_QUOTE = SOURCE / "verify_quote.cjs"
PREDICT = SOURCE / "predict.cjs"
FOLDER = ROOT / "build" / "node"
MODULES = FOLDER / "node_modules"
FILES = ("package.json", "package-lock.json")


def installed() -> bool:
    """Return whether Node.js is available, and the packages of the current lock file are installed."""
    return (
        shutil.which("node") is not None
        and MODULES.is_dir()
        and all((FOLDER / name).read_bytes() == (SOURCE / name).read_bytes() for name in FILES)
    )


def main() -> None:
    """Install the packages unless they are installed."""
    provide("node-packages", __doc__, is_available=installed, install=_install, place=MODULES)


def _install() -> str | None:
    if (npm := shutil.which("npm")) is None:
        return "`npm` is missing: install Node.js"
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(SOURCE / name, FOLDER / name)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    ended = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        return None
    shutil.rmtree(FOLDER)
    return f"`npm ci` failed: {' '.join(ended.stderr.split())[-300:]}"


if __name__ == "__main__":
    main()
