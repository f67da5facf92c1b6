"""Provide promtool, which checks alert rules: this machine's, or Debian's, unpacked into ``build/`` without installing.

The package also contains Prometheus, for the test in which Prometheus scrapes a cluster.

Source: https://packages.debian.org/bookworm/prometheus (``/usr/bin/promtool``, ``/usr/bin/prometheus``).
"""

import shutil
from pathlib import Path

from scripts import debian_package
from scripts.provide import provide

PROMTOOL = Path(__file__).resolve().parent.parent / "build" / "promtool" / "promtool"
PROMETHEUS = PROMTOOL.with_name("prometheus")
BY_HAND = "apt-get install --no-install-recommends prometheus"


def main() -> None:
    """Unpack promtool unless it is available."""
    provide("promtool", __doc__, is_available=_is_available, install=_install, place=PROMTOOL)


def _is_available() -> bool:
    return shutil.which("promtool") is not None or PROMTOOL.exists()


def _install() -> str | None:
    problem = unpack()
    return problem and f"{problem}. To install it as root: {BY_HAND}"


def unpack() -> str | None:
    """Unpack promtool. Return the reason for a failure, or None."""
    return debian_package.unpack("prometheus", {f"usr/bin/{path.name}": path for path in (PROMETHEUS, PROMTOOL)})


if __name__ == "__main__":
    main()
