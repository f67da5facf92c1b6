"""Generate the Python code of every .proto file under src, or check that the committed code is up to date."""

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"


def generate(destination: Path) -> list[Path]:
    """Run protoc for every .proto file, and return the generated files, relative to ``destination``."""
    protos = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE}", f"--python_out={destination}",
         f"--pyi_out={destination}", *protos],
        check=True,
    )  # fmt: skip
    stems = [proto.removesuffix(".proto") for proto in protos]
    return [Path(f"{stem}_pb2{suffix}") for stem in stems for suffix in (".py", ".pyi")]


def main() -> None:
    """Generate in place, or with ``--check`` generate into a temporary folder and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is out of date")
    if not parser.parse_args().check:
        generate(SOURCE)
        return
    with tempfile.TemporaryDirectory() as folder:
        stale = [
            path
            for path in generate(Path(folder))
            if not (SOURCE / path).is_file() or not filecmp.cmp(Path(folder) / path, SOURCE / path, shallow=False)
        ]
    for path in stale:
        print(f"{SOURCE.name}/{path} is out of date: run `make protos`", file=sys.stderr)
    raise SystemExit(bool(stale))


if __name__ == "__main__":
    main()
