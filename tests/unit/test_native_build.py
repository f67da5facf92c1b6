"""The native cipher is compiled where that can be done; where not, one line says why and what to install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = Path("src/sealserve/sealing/_node_cipher.c")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for path in (Path("scripts/native.py"), SOURCE):
        (tmp_path / path).parent.mkdir(parents=True)
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def build(checkout: Path, *arguments: str, compiler: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/native.py", *arguments]
    environment = dict(os.environ, CC=compiler)
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "no C compiler is installed"), ("false", "the compiler ended with 1")],
)
def test_what_is_missing_is_said_once_and_nothing_fails(compiler: str, reason: str, checkout: Path) -> None:
    result = build(checkout, compiler=compiler)
    assert result.returncode == 0
    assert result.stderr == (
        f"native: not compiled: {reason}. On Debian or Ubuntu: "
        "apt-get install gcc libc6-dev libssl-dev python3-dev\n"
    )  # fmt: skip
    assert build(checkout, "--required", compiler=compiler).returncode == 4
    assert [path.name for path in (checkout / SOURCE).parent.iterdir()] == [SOURCE.name]


def test_a_missing_header_is_named(checkout: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (apt-get install gcc)")
    (checkout / SOURCE).write_text("#include <openssl/no_such_header.h>\n")
    assert "openssl/no_such_header.h" in build(checkout, compiler="cc").stderr
    assert [path.name for path in (checkout / SOURCE).parent.iterdir()] == [SOURCE.name]


def test_it_is_compiled_once_and_again_after_a_change(checkout: Path) -> None:
    if build(checkout, "--required", compiler="cc").returncode:
        pytest.skip("needs a C compiler and headers (apt-get install gcc libc6-dev libssl-dev python3-dev)")
    library = (checkout / SOURCE).with_suffix(".abi3.so")
    first = library.stat().st_mtime_ns
    build(checkout, compiler="cc")
    assert library.stat().st_mtime_ns == first
    os.utime(checkout / SOURCE)
    build(checkout, compiler="cc")
    assert library.stat().st_mtime_ns > first


def test_the_native_module_stays_small() -> None:
    assert len((ROOT / SOURCE).read_text().splitlines()) <= 200
