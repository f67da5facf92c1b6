"""Provide promtool, which checks alert rules: this machine's, or Debian's, unpacked into ``build/`` without installing.

The package also contains Prometheus, for the test in which Prometheus scrapes a cluster.

Source: https://packages.debian.org/bookworm/prometheus (``/usr/bin/promtool``, ``/usr/bin/prometheus``).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROMTOOL = Path(__file__).resolve().parent.parent / "build" / "promtool" / "promtool"
PROMETHEUS = PROMTOOL.with_name("prometheus")
BY_HAND = "apt-get install --no-install-recommends prometheus"


def main() -> None:
    """Unpack promtool unless it is available. If that fails, print how to install it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--if-possible", action="store_true", help="succeed even without promtool; its tests then skip")
    arguments = parser.parse_args()
    if shutil.which("promtool") or PROMTOOL.exists():
        return
    problem = unpack()
    if problem is not None:
        print(f"promtool: {problem}. To install it as root: {BY_HAND}", file=sys.stderr)
        raise SystemExit(0 if arguments.if_possible else 4)
    print(f"promtool: unpacked {PROMTOOL}")


def download(folder: str) -> "subprocess.CompletedProcess[str]":
    """Download Debian's package into a folder that only root can write to."""
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "prometheus"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def unpack() -> str | None:
    """Unpack promtool. Return the reason for a failure, or None."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "this machine has no apt-get to download it"
    with tempfile.TemporaryDirectory(prefix="sealserve-promtool-") as folder:
        if (result := download(folder)).returncode != 0:  # the package lists are missing or outdated
            subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=False)
            result = download(folder)
        packages = list(Path(folder).glob("prometheus_*.deb"))
        if not packages:
            return f"Debian's package cannot be downloaded: {(result.stderr.strip().splitlines() or ['no reason'])[-1]}"
        subprocess.run(["dpkg-deb", "-x", str(packages[0]), f"{folder}/unpacked"], check=True)
        PROMTOOL.parent.mkdir(parents=True, exist_ok=True)
        for program in (PROMETHEUS, PROMTOOL):
            whole = program.with_suffix(".new")
            shutil.copy2(f"{folder}/unpacked/usr/bin/{program.name}", whole)
            whole.replace(program)
    return None


if __name__ == "__main__":
    main()
