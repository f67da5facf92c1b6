import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.index import BuiltEnclave
from sealserve.enclave.inventory import measure
from sealserve.enclave.launch.trusted_files import check_trusted_files, read_trusted_file
from sealserve.enclave.measurement import load_enclave
from sealserve.enclave.spec import EnclaveSpec
from sealserve.sealing.release import Release


@pytest.fixture
def trusted(
    build: Callable[..., BuiltEnclave], make_spec: Callable[..., EnclaveSpec], tmp_path: Path
) -> tuple[Path, Path]:
    """Return two trusted files of an enclave."""
    files = tmp_path / "program", tmp_path / "module.py"
    for path in files:
        path.write_text(path.name)
    build(make_spec(trusted_files=measure([sys.executable, *map(str, files)])))
    return files


@pytest.mark.usefixtures("trusted")
def test_files_as_measured_pass(release: Release, broker_ca: bytes) -> None:
    manifest = load_enclave(release.folder, "replica-0").manifest

    assert check_trusted_files(manifest, release.folder) == 4
    ca = release.folder / "enclave" / "broker-ca.pem"
    assert read_trusted_file(manifest, release.folder, ca) == broker_ca


def test_a_changed_file_is_named_with_both_digests(release: Release, trusted: tuple[Path, Path]) -> None:
    trusted[1].write_text("import evil")

    with raises(
        EnclaveCode.TRUSTED_FILE_CHANGED, match=r"module\.py was changed .*: expected SHA-256 \w{64}, got \w{64}"
    ) as caught:
        check_trusted_files(load_enclave(release.folder, "replica-0").manifest, release.folder)

    assert caught.value.code == "enclave.trusted-file-changed"


def test_a_missing_file_is_named(release: Release, trusted: tuple[Path, Path]) -> None:
    trusted[0].unlink()

    with raises(EnclaveCode.TRUSTED_FILE_MISSING, match="program cannot be read: No such file") as caught:
        check_trusted_files(load_enclave(release.folder, "replica-0").manifest, release.folder)

    assert caught.value.code == "enclave.trusted-file-missing"


@pytest.mark.usefixtures("trusted")
def test_a_file_that_is_not_measured_is_not_read(release: Release) -> None:
    manifest = load_enclave(release.folder, "replica-0").manifest

    with raises(EnclaveCode.TRUSTED_FILE_MISSING, match="/etc/passwd cannot be used: .* trusted file"):
        read_trusted_file(manifest, release.folder, Path("/etc/passwd"))
