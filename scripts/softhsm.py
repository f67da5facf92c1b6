"""Provide SoftHSM, a PKCS#11 token in software for tests: this machine's, or Debian's, unpacked into ``build/``.

Source: https://packages.debian.org/bookworm/softhsm2 (``libsofthsm2.so``, ``softhsm2-util``).
"""

from pathlib import Path

from scripts.debian_package import unpack
from scripts.provide import provide

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
    """Unpack SoftHSM unless it is available."""
    provide("SoftHSM", __doc__, is_available=lambda: found() is not None, install=_install, place=MODULE)


def _install() -> str | None:
    problem = unpack("softhsm2", {"usr/bin/softhsm2-util": PROGRAM})
    problem = problem or unpack("libsofthsm2", {"usr/lib/softhsm/libsofthsm2.so": MODULE})
    return problem and f"{problem}. To install it as root: {BY_HAND}"


if __name__ == "__main__":
    main()
