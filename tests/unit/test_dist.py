"""`make dist`: what the wheel and the sdist contain, and that each build gives the same bytes."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any, Final

import pytest

from sealserve import __version__

ROOT: Final = Path(__file__).parents[2]
WHEEL: Final = f"sealserve-{__version__}"
CIPHER: Final = "sealserve/sealing/_node_cipher.abi3.so"


def dist(output: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "dist.py"), "--output", str(output)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wheel_of(folder: Path) -> zipfile.ZipFile:
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    result = dist(folder)
    assert result.returncode == 0, result.stderr
    return folder


def bill(folder: Path) -> dict[str, Any]:
    with wheel_of(folder) as archive:
        found: dict[str, Any] = json.loads(archive.read(f"{WHEEL}.dist-info/sboms/sealserve.cdx.json"))
    return found


def test_two_builds_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """In another folder, with another time zone, and with other permissions for new files."""
    scratch = tmp_path / "another place for temporary files"
    scratch.mkdir()
    former = os.umask(0o077)
    try:
        result = dist(tmp_path / "again", TMPDIR=str(scratch), TZ="Asia/Tokyo", LC_ALL="C", HOME=str(tmp_path))
    finally:
        os.umask(former)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "again") == contents(built)
    assert list(scratch.iterdir()) == []


def test_a_new_build_replaces_an_older_one(tmp_path: Path) -> None:
    old, foreign = tmp_path / "sealserve-0.0.1-py3-none-any.whl", tmp_path / "notes.txt"
    old.touch()
    foreign.touch()
    assert dist(tmp_path, SEALSERVE_NATIVE="off").returncode == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["notes.txt", f"{WHEEL}-py3-none-any.whl", f"{WHEEL}.tar.gz"]


def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    with wheel_of(built) as archive:
        names = archive.namelist()
        assert {name.partition("/")[0] for name in names} == {"sealserve", f"{WHEEL}.dist-info"}
        assert not [name for name in names if name.endswith((".pyc", ".pb")) or "__pycache__" in name]
        # In a checkout, the lock files are links to `requirements/`.
        for name in ("base", "server"):
            locked = archive.read(f"sealserve/containers/locks/{name}.lock")
            assert locked == (ROOT / "requirements" / f"{name}.lock").read_bytes()
        scripts = archive.read(f"{WHEEL}.dist-info/entry_points.txt").decode()
    assert "sealserve = sealserve.cli:main" in scripts
    assert "sealserve-model-server = sealserve.serving:main" in scripts


def test_the_extras_are_in_the_metadata(built: Path) -> None:
    with wheel_of(built) as archive:
        metadata = Parser().parsestr(archive.read(f"{WHEEL}.dist-info/METADATA").decode())
    assert metadata["Version"] == __version__
    assert metadata["Metadata-Version"] == "2.4"
    assert metadata.get_all("Provides-Extra") == [
        "all",
        "kubernetes",
        "model-signing",
        "owner",
        "pkcs11",
        "postgresql",
        "server",
    ]
    base = {re.split(r"[<>=]", line)[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert base == {"cryptography", "dcap-qvl", "grpcio", "numpy", "protobuf", "pydantic", "pyopenssl", "rich", "typer"}


def test_the_wheel_has_a_bill_of_materials(built: Path) -> None:
    found = bill(built)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["purl"] == f"pkg:pypi/sealserve@{__version__}"
    components = {item["name"]: item for item in found["components"]}
    references = [item["bom-ref"] for item in found["components"]]
    assert len(components) == len(set(references)) == len(references)
    assert found["dependencies"][0]["dependsOn"] == references
    lock = (ROOT / "requirements" / "dev.lock").read_text()
    for name, item in components.items():
        if name not in {"libcrypto", "tensorflow"}:
            assert f"\n{name}=={item['version']} " in f"\n{lock}"
    assert components["numpy"]["scope"] == "required"
    assert components["sqlalchemy"]["scope"] == "optional"
    extras = {item["value"] for item in components["sqlalchemy"]["properties"] if item["name"] == "sealserve:extra"}
    assert extras == {"all", "kubernetes", "model-signing", "owner", "pkcs11", "postgresql", "server"}


def test_the_native_cipher_is_for_every_later_python(built: Path) -> None:
    with wheel_of(built) as archive:
        if CIPHER not in archive.namelist():
            pytest.skip("needs a C compiler and headers (apt-get install gcc libc6-dev libssl-dev python3-dev)")
        tags = archive.read(f"{WHEEL}.dist-info/WHEEL").decode()
    assert re.search(r"^Tag: cp311-abi3-linux_\w+$", tags, re.MULTILINE)
    assert "Root-Is-Purelib: false" in tags
    assert "libcrypto" in {item["name"] for item in bill(built)["components"]}


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CC": "false"}, "the compiler ended with 1"),
        ({"CC": "no-such-compiler"}, "no C compiler is installed"),
        ({"SEALSERVE_NATIVE": "off"}, "SEALSERVE_NATIVE is off"),
        ({"PATH": ""}, "no C compiler is installed"),  # and no git
    ],
)
def test_without_a_compiler_the_wheel_is_for_every_platform(
    environment: dict[str, str], reason: str, tmp_path: Path
) -> None:
    result = dist(tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert result.stderr == f"dist: The wheel is built without the native cipher, so sealing is slower: {reason}.\n"
    assert (tmp_path / f"{WHEEL}-py3-none-any.whl").is_file()
    with wheel_of(tmp_path) as archive:
        assert CIPHER not in archive.namelist()


def test_a_required_cipher_that_is_not_compiled_is_an_error(tmp_path: Path) -> None:
    result = dist(tmp_path / "out", CC="false", SEALSERVE_NATIVE="required")
    assert result.returncode == 1
    assert "dist: error: the wheel was not built." in result.stderr
    assert "The native cipher was not compiled: the compiler ended with 1." in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_setting_is_an_error(tmp_path: Path) -> None:
    result = dist(tmp_path / "out", SEALSERVE_NATIVE="yes")
    assert result.returncode == 1
    assert "SEALSERVE_NATIVE: expected one of auto, required, off, got 'yes'." in result.stderr


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = dist(tmp_path / "file" / "dist", SEALSERVE_NATIVE="off")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith(f"dist: error: {tmp_path}/file/dist: Not a directory.\n")


def test_the_sdist_has_what_a_wheel_is_built_from_and_no_more(built: Path, tmp_path: Path) -> None:
    with tarfile.open(built / f"{WHEEL}.tar.gz") as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert not [name for name in names if name.endswith(".so") or "/tests/" in name or "/.git/" in name]
    project = tmp_path / WHEEL
    assert sorted(path.name for path in project.iterdir()) == [
        ".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "hatch_build.py", "pyproject.toml",
        "requirements", "scripts", "src",
    ]  # fmt: skip
    # An unpacked sdist builds itself again.
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "again")]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (wheel,) = (tmp_path / "again").iterdir()
    assert contents(built)[wheel.name] == wheel.read_bytes()
