"""Provide a program or packages that only tests need: the command line of the scripts that install them."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def provide(
    name: str,
    description: str | None,
    *,
    is_available: Callable[[], bool],
    install: Callable[[], str | None],
    place: Path,
) -> None:
    """Install something unless it is available. If that fails, print the reason, and exit.

    Args:
        name: Its name, which begins each line.
        description: The script's docstring.
        is_available: Returns whether it is available.
        install: Installs it. Returns the reason for a failure, or None.
        place: The path of what was installed.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--if-possible", action="store_true", help="succeed in any case; the tests that need it skip")
    arguments = parser.parse_args()
    if is_available():
        return
    if (problem := install()) is not None:
        print(f"{name}: {problem}", file=sys.stderr)
        raise SystemExit(0 if arguments.if_possible else 4)
    print(f"{name}: installed {place}")
