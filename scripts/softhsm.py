"""Provide SoftHSM, a PKCS#11 token in software for tests: this machine's, or Debian's, unpacked into ``build/``.

Source: https://packages.debian.org/bookworm/softhsm2 (``libsofthsm2.so``, ``softhsm2-util``).
"""

import argparse
import sys
from pathlib import Path

from scripts.debian_package import unpack

FOLDER = Path(__file__).resolve().parent.parent / "build" / "softhsm"
PROGRAM = FOLDER / "softhsm2-util"
MODULE = FOLDER / "libsofthsm2.so"
INSTALLED = (Path("/usr/bin/softhsm2-util"), Path("/usr/lib/softhsm/libsofthsm2.so"))
BY_HAND = "apt-get install --no-install-recommends softhsm2"


def found() -> tuple[Path, Path] | None:
    """Return the program and the module, or None if this machine has neither."""
    for pair in (INSTALLED, (PROGRAM, MODULE)):
        if all(path.exists() for path in pair):
            return pair
    return None


def main() -> None:
    """Unpack SoftHSM unless it is available. If that fails, print how to install it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--if-possible", action="store_true", help="succeed even without SoftHSM; its tests then skip")
    arguments = parser.parse_args()
    if found() is not None:
        return
    problem = unpack("softhsm2", {"usr/bin/softhsm2-util": PROGRAM})
    problem = problem or unpack("libsofthsm2", {"usr/lib/softhsm/libsofthsm2.so": MODULE})
    if problem is not None:
        print(f"softhsm: {problem}. To install it as root: {BY_HAND}", file=sys.stderr)
        raise SystemExit(0 if arguments.if_possible else 4)
    print(f"softhsm: unpacked {MODULE}")


if __name__ == "__main__":
    main()
