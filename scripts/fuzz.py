"""Run the fuzz targets: each module in ``tests/fuzz`` has ``fuzz(data)``, which must not raise, and ``seeds()``.

    .venv/bin/python scripts/fuzz.py [--seconds 60] [TARGET...]

The targets share the seconds. Inputs that reach new code are kept in ``build/fuzz/TARGET/``. An input that fails is
kept next to them as ``crash-...``, and the exit status is then 1.
"""

import argparse
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ROOT / "tests" / "fuzz"
FOUND = ROOT / "build" / "fuzz"
MAX_SIZE = 1 << 16


def install() -> None:
    """Install the fuzzer into this environment, pinned with its hash, unless it is already installed."""
    if importlib.util.find_spec("atheris") is None:
        uv, lock = Path(sys.executable).with_name("uv"), ROOT / "requirements" / "fuzz.lock"
        command = [
            str(uv),
            "pip",
            "install",
            "--quiet",
            "--python",
            sys.executable,
            "--require-hashes",
            "-r",
            str(lock),
        ]
        subprocess.run(command, check=True)


def run(name: str, seconds: int) -> int:
    """Fuzz one target in a separate process, and return its exit status."""
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--inside", name, f"-max_total_time={seconds}", f"-max_len={MAX_SIZE}",
               f"-artifact_prefix={folder}/", "-rss_limit_mb=1024", "-timeout=10", "-print_final_stats=1",
               "-verbosity=0", str(folder)]  # fmt: skip
    print(f"fuzz: {name}: {seconds} s", flush=True)
    return subprocess.run(command, check=False, cwd=ROOT).returncode


def inside(name: str, options: list[str]) -> None:
    """Fuzz in this process, with sealserve's code instrumented for coverage."""
    atheris = importlib.import_module("atheris")  # installed on demand
    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["sealserve"], enable_loader_override=False):
        target = importlib.import_module(f"tests.fuzz.{name}")
    folder = Path(options[-1])
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number:03}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options], target.fuzz)
    atheris.Fuzz()


def main() -> None:
    """Run the targets that the command line names, or all targets."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
        return
    known = sorted(path.stem for path in TARGETS.glob("[a-z]*.py"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(known))
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.targets) - set(known)):
        parser.error(f"unknown target: {', '.join(unknown)}; expected {', '.join(known)}")
    install()
    chosen = arguments.targets or known
    failed = [name for name in chosen if run(name, max(1, arguments.seconds // len(chosen)))]
    if failed:
        print(f"fuzz: failed: {', '.join(failed)}; the inputs are in {FOUND.relative_to(ROOT)}/", file=sys.stderr)
        raise SystemExit(1)
    print(f"fuzz: {len(chosen)} targets found no failure")


if __name__ == "__main__":
    main()
