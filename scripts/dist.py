"""Build the sdist and the wheel into ``dist/``: the wheel from the sdist, so that the sdist is complete.

Both are reproducible: the same files, Hatchling, Python, compiler and libraries give the same bytes. The time of each
file is SOURCE_DATE_EPOCH, or Hatchling's default. The network is not used.

    make dist
    SEALSERVE_NATIVE=off make dist    # a wheel without native code, for every platform
    .venv/bin/python scripts/dist.py [--output FOLDER]
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


def build(kind: str, project: Path, output: Path) -> Path:
    """Build one distribution, and return its file.

    Args:
        kind: ``sdist`` or ``wheel``.
        project: The folder with ``pyproject.toml``.
        output: An empty folder, or a folder that does not exist.

    Raises:
        SystemExit: It cannot be built. The message is Hatchling's.
    """
    # -P: no folder of ours is searched for modules. Everything is imported from the environment of `make setup`.
    command = [sys.executable, "-P", "-m", "hatchling", "build", "--target", kind, "--directory", str(output)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    notes = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode != 0:
        raise SystemExit("\n".join([f"dist: error: the {kind} was not built.", *notes[-8:]]))
    for note in notes:
        if "native cipher" in note:
            print(f"dist: {note}", file=sys.stderr)
    return next(output.glob("*.tar.gz" if kind == "sdist" else "*.whl"))


def publish(files: list[Path], folder: Path) -> None:
    """Move the files to ``folder``, in place of the distributions of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("sealserve-*.whl"), *folder.glob("sealserve-*.tar.gz")]:
        old.unlink()
    for file in files:
        partial = folder / f".{file.name}.part"
        shutil.copyfile(file, partial)
        partial.replace(folder / file.name)
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {folder / file.name}")


def main() -> None:
    """Build both, and then put them into ``dist/`` or another folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=DIST, metavar="FOLDER", help="the folder for the files")
    output = parser.parse_args().output
    with TemporaryDirectory(prefix="sealserve-dist-") as name:
        work = Path(name)
        source = build("sdist", ROOT, work / "sdist")
        with tarfile.open(source) as archive:
            archive.extractall(work / "source", filter="data")
        (project,) = (work / "source").iterdir()
        wheel = build("wheel", project, work / "wheel")
        try:
            publish([source, wheel], output)
        except OSError as error:
            raise SystemExit(f"dist: error: {error.filename or output}: {error.strerror}.") from error


if __name__ == "__main__":
    main()
