"""Install the packages of the tests' Node.js programs into ``build/``: a verifier of SGX quotes, and a gRPC client.

The verifier is independent of the Python package dcap-qvl, which is written in Rust. The versions and digests of all
packages are in ``testbed/node/package-lock.json``, which names no index. Scripts of packages do not run.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

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
    """Install the packages unless they are installed. If that fails, print the reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--if-possible", action="store_true", help="succeed without Node.js; their tests then skip")
    arguments = parser.parse_args()
    if installed():
        return
    problem = "`npm` is missing: install Node.js"
    if (npm := shutil.which("npm")) is not None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(SOURCE / name, FOLDER / name)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        ended = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            print(f"node-packages: installed into {MODULES}")
            return
        shutil.rmtree(FOLDER)
        problem = f"`npm ci` failed: {' '.join(ended.stderr.split())[-300:]}"
    print(f"node-packages: {problem}", file=sys.stderr)
    raise SystemExit(0 if arguments.if_possible else 4)


if __name__ == "__main__":
    main()
