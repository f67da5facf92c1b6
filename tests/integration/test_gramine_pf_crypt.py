"""Interchange with Gramine's own tool, where it is: ``gramine-sgx-pf-crypt`` on PATH, or named by the environment."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sealserve.sealing.codec import inspect_file, seal_file, unseal_file
from sealserve.sealing.format_version import FormatVersion
from sealserve.secret import SecretBytes

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("each_cipher")]

GROUP = 96 * 4096
SIZES = [0, 1, 3071, 3072, 3073, 7168, 7169, 3072 + GROUP, 3072 + GROUP + 1, 3072 + 34 * GROUP, 3072 + 40 * GROUP + 77]


@pytest.fixture
def tool() -> str:
    found = os.environ.get("SEALSERVE_PF_CRYPT") or shutil.which("gramine-sgx-pf-crypt")
    if not found:
        pytest.skip("needs gramine-sgx-pf-crypt (part of Gramine), or its path in SEALSERVE_PF_CRYPT")
    return found


def run(tool: str, folder: Path, way: str, source: str, destination: str) -> subprocess.CompletedProcess[str]:
    command = [tool, way, "-w", "key", "-i", source, "-o", destination]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("size", SIZES)
def test_each_opens_what_the_other_sealed(size: int, tool: str, tmp_path: Path) -> None:
    content = hashlib.shake_128(str(size).encode()).digest(size)
    (tmp_path / "plain").write_bytes(content)
    key = SecretBytes.random(16)
    (tmp_path / "key").write_bytes(key.reveal())
    assert run(tool, tmp_path, "encrypt", "plain", "theirs").returncode == 0
    opened = unseal_file(tmp_path / "theirs", tmp_path / "back", key=key, embedded_path="theirs")
    assert opened.size == size
    assert (tmp_path / "back").read_bytes() == content
    newest = inspect_file(tmp_path / "theirs").version
    for version in FormatVersion if newest is FormatVersion.V2_0 else (FormatVersion.V1_0,):
        seal_file(tmp_path / "plain", tmp_path / version.value, key=key, embedded_path="x", version=version)
        assert run(tool, tmp_path, "decrypt", version.value, f"{version.value}.back").returncode == 0
        assert (tmp_path / f"{version.value}.back").read_bytes() == content


def test_old_nodes_that_the_tool_leaves_behind_are_read_on_request(tool: str, tmp_path: Path) -> None:
    key = SecretBytes.random(16)
    (tmp_path / "key").write_bytes(key.reveal())
    (tmp_path / "long").write_bytes(bytes(100_000))
    (tmp_path / "short").write_bytes(b"short")
    for source in ("long", "short"):
        assert run(tool, tmp_path, "encrypt", source, "sealed").returncode == 0
    if (tmp_path / "sealed").stat().st_size == 4096:
        pytest.skip("this version of the tool truncates its output")
    result = unseal_file(tmp_path / "sealed", tmp_path / "back", key=key, embedded_path=None, allow_trailing=True)
    assert result.size == 5
    assert (tmp_path / "back").read_bytes() == b"short"
