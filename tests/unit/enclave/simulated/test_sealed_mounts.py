import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.simulated.private_memory import PrivateMemory, PrivateMemoryMethod
from sealserve.enclave.simulated.sealed_mounts import open_mounts, sealed_size
from sealserve.enclave.spec import EnclaveSpec, make_manifest, release_mounts
from sealserve.errors import VerificationError
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import PathMismatchError
from sealserve.sealing.release import Release
from sealserve.secret import SecretBytes


@pytest.fixture
def manifest(release: Release, make_spec: Callable[..., EnclaveSpec]) -> EnclaveManifest:
    return make_manifest(make_spec(mounts=release_mounts(release.folder)), broker_ca_sha256="0" * 64)


@pytest.fixture
def memory(tmp_path: Path) -> PrivateMemory:
    (tmp_path / "private").mkdir()
    return PrivateMemory(inside="/release", root=tmp_path / "private", method=PrivateMemoryMethod.SHARED)


def test_everything_sealed_is_opened_in_its_place(
    manifest: EnclaveManifest, release: Release, memory: PrivateMemory, key: SecretBytes
) -> None:
    opened = open_mounts(manifest, release.folder, memory, key)

    model = memory.root / "models/tiny/1/saved_model.pb"
    assert model.read_bytes() == b"graph" * 2000
    assert (memory.root / "tls/ssl.cfg").read_bytes() == b"private"
    assert (memory.root / "files.json").is_file()
    assert list((memory.root / "scratch").iterdir()) == []
    assert model.stat().st_mode & 0o777 == 0o600
    assert model.parent.stat().st_mode & 0o777 == 0o700
    assert opened.files == 3
    assert opened.size > 10_000


def test_a_file_in_anothers_place_does_not_open(
    manifest: EnclaveManifest, release: Release, memory: PrivateMemory, key: SecretBytes
) -> None:
    shutil.copyfile(release.folder / "models/tiny/1/saved_model.pb", release.folder / "tls/ssl.cfg")

    with pytest.raises(PathMismatchError, match=r"is used as 'tls/ssl\.cfg'"):
        open_mounts(manifest, release.folder, memory, key)


def test_another_key_opens_nothing(manifest: EnclaveManifest, release: Release, memory: PrivateMemory) -> None:
    with pytest.raises(VerificationError, match=r"files\.json"):
        open_mounts(manifest, release.folder, memory, SecretBytes(bytes(16)))

    assert list(memory.root.iterdir()) == []


def test_a_link_in_the_release_is_not_followed(
    manifest: EnclaveManifest, release: Release, memory: PrivateMemory, key: SecretBytes
) -> None:
    (release.folder / "tls/more").symlink_to("ssl.cfg")

    with raises(SealingCode.TREE_NOT_REGULAR, match="is a link or special file"):
        open_mounts(manifest, release.folder, memory, key)


def test_a_folder_that_the_host_emptied_is_there_for_the_file_list_to_judge(
    manifest: EnclaveManifest, release: Release, memory: PrivateMemory, key: SecretBytes
) -> None:
    for path in (release.folder / "models").rglob("*"):
        if path.is_file():
            path.unlink()

    open_mounts(manifest, release.folder, memory, key)

    inside = memory.path("/release/models")
    assert [path for path in inside.rglob("*") if path.is_file()] == []
    assert any(path.is_dir() for path in inside.rglob("*"))


@pytest.mark.parametrize(("source", "mounted"), [("models", "/release/models"), ("files.json", "/release/files.json")])
def test_a_missing_source_is_named(
    manifest: EnclaveManifest, release: Release, memory: PrivateMemory, source: str, mounted: str
) -> None:
    path = release.folder / source
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    with raises(
        EnclaveCode.MOUNT_SOURCE, match=f"does not contain '{source}', which the enclave mounts at {mounted}"
    ) as e:
        open_mounts(manifest, release.folder, memory, SecretBytes(bytes(range(16))))

    assert e.value.code == "enclave.mount-source"


def test_the_sealed_size_bounds_what_is_opened(
    manifest: EnclaveManifest, release: Release, memory: PrivateMemory, key: SecretBytes
) -> None:
    sealed = [path for folder in ("models", "tls") for path in (release.folder / folder).rglob("*") if path.is_file()]
    sealed.append(release.folder / "files.json")

    assert sealed_size(manifest, release.folder) == sum(path.stat().st_size for path in sealed)

    opened = open_mounts(manifest, release.folder, memory, key)
    assert opened.size <= sealed_size(manifest, release.folder)
    assert sum(path.stat().st_blocks * 512 for path in memory.root.rglob("*") if path.is_file()) <= sealed_size(
        manifest, release.folder
    )


def test_what_is_missing_or_no_file_counts_nothing(manifest: EnclaveManifest, release: Release) -> None:
    shutil.rmtree(release.folder / "models")
    (release.folder / "files.json").unlink()
    (release.folder / "tls/ssl.cfg").rename(release.folder / "elsewhere")
    (release.folder / "tls/ssl.cfg").symlink_to("../elsewhere")

    assert sealed_size(manifest, release.folder) == 0
