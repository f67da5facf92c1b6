"""The command line of a script that writes committed files, or checks with ``--check`` that they are current."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def write_or_check(files: Mapping[Path, Callable[[], str]], *, description: str | None, target: str) -> bool:
    """Write the files, or compare them with ``--check``. If a file is out of date, exit with status 1.

    Args:
        files: The content of each file.
        description: What the script does, for its help.
        target: The target of `make` that writes the files, for the message.

    Returns:
        Whether the files were written.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is out of date")
    if not parser.parse_args().check:
        for path, render in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render(), encoding="utf-8")
        return True
    stale = [path for path, render in files.items() if not path.is_file() or path.read_text("utf-8") != render()]
    if stale:
        print(f"{', '.join(path.name for path in stale)}: out of date; run `make {target}`", file=sys.stderr)
        raise SystemExit(1)
    return False
