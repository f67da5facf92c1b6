"""What a client costs: the time of its import and the size of its installation, beside TensorFlow's own client package.

    .venv/bin/python bench/client_footprint.py [--quick] [--json FILE]

pip installs each package into an empty virtual environment, from the index of its configuration. The packages are the
wheel that `make dist` builds, and `tensorflow-serving-api` in the version of `pyproject.toml`. With ``--quick``, pip
installs nothing: the import is timed in this environment, which has both packages, and no size is measured.

The size is what pip added to the environment, without bytecode. MB are millions of bytes. The time is what a process
takes in addition to a process that imports nothing: processor time, and time by the clock. Both are the best of the
rounds, taken in turns, since other work on the machine only makes a round slower. The goals: `import sealserve.client`
within 0.3 seconds on an idle machine, and 60 MB in addition to NumPy and grpcio.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
ROUNDS: Final = 9
QUICK_ROUNDS: Final = 3
SERVED: Final = "tensorflow-serving-api"
IMPORTS: Final = {
    "sealserve": "import sealserve.client",
    SERVED: "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc",
}
"""What a program imports that sends a request."""
SHARED: Final = ("numpy", "numpy.libs", "grpc")
"""The folders of NumPy and grpcio."""


def environment() -> dict[str, str]:
    """Return an environment without the settings of Python, in which TensorFlow logs nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def install(folder: Path, requirement: str) -> Path:
    """Create a virtual environment, install a requirement, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    # The pip of this environment installs, so the measured environment does not contain pip.
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "--quiet", "--no-compile", requirement], check=False)
    if done.returncode != 0:
        raise SystemExit(f"bench: {requirement} was not installed. Without a package index, use `--quick`.")
    return folder / "bin" / "python"


def sizes(python: Path) -> dict[str, int]:
    """Return the bytes of each entry of an environment's ``site-packages``."""
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    return {entry.name: sum(path.stat().st_size for path in _files(entry)) for entry in packages.iterdir()}


def _files(entry: Path) -> Iterator[Path]:
    found = entry.rglob("*") if entry.is_dir() else [entry]
    return (path for path in found if path.is_file() and not path.is_symlink() and path.suffix != ".pyc")


@dataclass(frozen=True)
class Cost:
    """Seconds that a process takes.

    Args:
        cpu: Processor time, of the program and of the kernel for it.
        wall: Time by the clock.
    """

    cpu: float
    wall: float


def cost_of(python: Path, code: str) -> Cost:
    """Run a program to its end."""
    began = time.perf_counter()
    process = subprocess.Popen([python, "-c", code], env=environment(), stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"bench: `{code}` failed.")
    return Cost(cpu=used.ru_utime + used.ru_stime, wall=time.perf_counter() - began)


def import_costs(pythons: dict[str, Path], rounds: int) -> dict[str, Cost]:
    """Return what each import takes. The first round only fills caches, and writes bytecode."""
    contestants = [("nothing", next(iter(pythons.values())), "pass")]
    contestants += [(name, python, IMPORTS[name]) for name, python in pythons.items()]
    seen: dict[str, list[Cost]] = {name: [] for name, _, _ in contestants}
    for _ in range(rounds + 1):
        for name, python, code in contestants:
            seen[name].append(cost_of(python, code))
    best = {
        name: Cost(cpu=min(cost.cpu for cost in costs[1:]), wall=min(cost.wall for cost in costs[1:]))
        for name, costs in seen.items()
    }
    nothing = best.pop("nothing")
    return {name: Cost(cpu=cost.cpu - nothing.cpu, wall=cost.wall - nothing.wall) for name, cost in best.items()}


def built_wheel(folder: Path) -> Path:
    """Build the wheel, and return it."""
    command = [sys.executable, str(ROOT / "scripts" / "dist.py"), "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def served_requirement() -> str:
    """Return the requirement of TensorFlow's client package, as the extra ``server`` has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: str = next(item for item in project["optional-dependencies"]["server"] if item.startswith(SERVED))
    return found


def installed(scratch: Path) -> dict[str, Path]:
    """Install each client into its own environment, and return the Python of each."""
    requirements = {"sealserve": str(built_wheel(scratch / "dist")), SERVED: served_requirement()}
    return {name: install(scratch / name, requirement) for name, requirement in requirements.items()}


def main() -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="time the imports in this environment, and install nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "clients": {name: {} for name in IMPORTS},
    }
    with tempfile.TemporaryDirectory(prefix="sealserve-bench-") as name:
        here = dict.fromkeys(IMPORTS, Path(sys.executable))
        pythons = here if arguments.quick else installed(Path(name))
        if not arguments.quick:
            for client, python in pythons.items():  # before the first import writes bytecode
                found = sizes(python)
                shared = sum(found.get(entry, 0) for entry in SHARED)
                result["clients"][client] |= {"bytes": sum(found.values()), "bytes_of_numpy_and_grpcio": shared}
        for client, cost in import_costs(pythons, QUICK_ROUNDS if arguments.quick else ROUNDS).items():
            result["clients"][client]["import_seconds"] = asdict(cost)
    for client, seen in result["clients"].items():
        text = "import {cpu:.2f} s of processor time, {wall:.2f} s by the clock".format(**seen["import_seconds"])
        if "bytes" in seen:
            rest = (seen["bytes"] - seen["bytes_of_numpy_and_grpcio"]) / 1e6
            text += f", {seen['bytes'] / 1e6:.0f} MB ({rest:.0f} MB without NumPy and grpcio)"
        print(f"{client:<24}{text}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
