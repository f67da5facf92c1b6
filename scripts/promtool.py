"""Provide promtool, which checks alert rules: this machine's, or Debian's, unpacked into ``build/`` without installing.

The package also contains Prometheus, for the test in which Prometheus scrapes a cluster.

Source: https://packages.debian.org/bookworm/prometheus (``/usr/bin/promtool``, ``/usr/bin/prometheus``).
"""

import argparse
import shutil
import sys
from pathlib import Path

from scripts import debian_package

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


def unpack() -> str | None:
    """Unpack promtool. Return the reason for a failure, or None."""
    return debian_package.unpack("prometheus", {f"usr/bin/{path.name}": path for path in (PROMETHEUS, PROMTOOL)})


if __name__ == "__main__":
    main()
