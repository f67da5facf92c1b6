"""An installation without the simulator: everything else works, and an error names the missing part."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness.workspaces import Site

import sealserve
from sealserve.cli.application import VERBS
from sealserve.enclave.launch.simulator import PACKAGES
from sealserve.owner.releases import ship
from sealserve.sealing.release import VerifiedRelease


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installation without the simulated platform."""
    source = Path(sealserve.__file__).parent
    left_out = {str(source.parent / package.replace(".", "/")) for package in PACKAGES}

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name == "__pycache__" or str(Path(folder, name)) in left_out]

    folder = tmp_path_factory.mktemp("installation")
    shutil.copytree(source, folder / "sealserve", ignore=ignored)
    return folder


def run(installation: Path, *arguments: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installation), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-m", "sealserve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory, env=environment)


def test_the_simulated_platform_is_really_left_out(installation: Path, tmp_path: Path) -> None:
    code = (
        "import sealserve\nfrom sealserve.enclave.launch.simulator import SimulatorMissingError, load_simulator\n"
        "try:\n    load_simulator()\nexcept SimulatorMissingError as error:\n    print(sealserve.__file__, error.code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(installation), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert found.stdout == f"{installation}/sealserve/__init__.py simulated.not-installed\n"


def test_the_help_names_every_verb(installation: Path, tmp_path: Path) -> None:
    # The list of verbs imports the module of each.
    shown = run(installation, "--help", directory=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert [verb for verb in VERBS if verb not in shown.stdout] == []


@pytest.mark.parametrize("verb", ["broker", "enclave", "up", "demo"])
def test_a_verb_shows_its_help(installation: Path, tmp_path: Path, verb: str) -> None:
    shown = run(installation, verb, "--help", directory=tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_what_needs_no_simulation_works(installation: Path, ready: Site, released: VerifiedRelease) -> None:
    for arguments in (
        ("enclave", "lint", released.folder / "enclave/replica-0.manifest.sgx"),
        ("enclave", "show"),
        ("release", "verify"),
        ("broker", "releases"),
        ("doctor", "user"),
    ):
        shown = run(installation, *arguments, directory=ready.directory)
        assert shown.returncode == 0, (arguments, shown.stderr)


def test_what_needs_simulation_says_so(installation: Path, ready: Site, released: VerifiedRelease) -> None:
    ship(ready.workspace, released)
    for arguments in (
        ("enclave", "run"),
        ("enclave", "run", "--platform", "gramine-direct"),
        ("demo",),
        ("simulated", "pcs"),
        ("simulated", "platform"),
    ):
        refused = run(installation, *arguments, directory=ready.directory)
        assert refused.returncode == 4, arguments
        assert "error[simulated.not-installed]: The simulated platform is not installed" in refused.stderr
        assert 'set platform = "sgx" in sealserve.toml' in refused.stderr


def test_doctor_finds_what_is_missing(installation: Path, ready: Site) -> None:
    examined = run(installation, "doctor", "host", "--json", directory=ready.directory)
    found = {row["name"]: row for row in json.loads(examined.stdout)}
    assert found["simulated platform"]["verdict"] == "missing"
