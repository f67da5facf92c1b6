import errno
import hashlib
import os
import resource
import stat
import threading
import tracemalloc
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.atomic_file import OutputExistsError
from sealserve.codes import SealserveCode
from sealserve.sealing.codec import inspect_file, seal_bytes, seal_file, unseal_bytes, unseal_file
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import PathMismatchError, is_safe_relative, normalise
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.protected_file import metadata_key
from sealserve.sealing.reader import TamperedNodeError
from sealserve.secret import SecretBytes

MIB = 2**20

pytestmark = pytest.mark.usefixtures("each_cipher")


@pytest.fixture
def sealed(tmp_path: Path, key: SecretBytes) -> Path:
    path = tmp_path / "sealed"
    seal_bytes(b"content" * 1000, path, key=key, embedded_path="models/m.bin")
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_bytes_and_secrets_are_sealed_alike(tmp_path: Path, key: SecretBytes) -> None:
    for name, value in (("bytes", b"secret"), ("secret", SecretBytes(b"secret"))):
        result = seal_bytes(value, tmp_path / name, key=key, embedded_path="tls/ssl.cfg")
        assert result.plain_sha256 == hashlib.sha256(b"secret").hexdigest()
        assert unseal_bytes(tmp_path / name, key=key, embedded_path="tls/ssl.cfg").reveal() == b"secret"


def test_a_plaintext_is_private_and_a_sealed_file_is_not(tmp_path: Path, sealed: Path, key: SecretBytes) -> None:
    unseal_file(sealed, tmp_path / "plain", key=key, embedded_path="models/m.bin")
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o600
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o644


def test_without_an_expected_path_the_embedded_one_is_told(tmp_path: Path, sealed: Path, key: SecretBytes) -> None:
    assert unseal_file(sealed, tmp_path / "plain", key=key, embedded_path=None).embedded_path == "models/m.bin"


def test_the_public_part_needs_no_key(sealed: Path) -> None:
    header = inspect_file(sealed)
    assert (header.version, header.minor_version, header.feature_flags) == (FormatVersion.V1_0, 0, 0)
    assert (header.sealed_size, header.nodes) == (sealed.stat().st_size, 3)


def test_inspecting_notices_a_size_that_no_sealed_file_has(sealed: Path) -> None:
    sealed.write_bytes(sealed.read_bytes()[:5000])
    with raises(
        SealingCode.SEALED_FILE_TRUNCATED, match="sealed is truncated: expected a multiple of 4096 bytes, got 5000"
    ):
        inspect_file(sealed)


def test_progress_adds_up_to_the_size(tmp_path: Path, key: SecretBytes) -> None:
    size = 3 * MIB + 5
    (tmp_path / "plain").write_bytes(bytes(size))
    sealing: list[int] = []
    unsealing: list[int] = []
    seal_file(tmp_path / "plain", tmp_path / "sealed", key=key, embedded_path="p", progress=sealing.append)
    unseal_file(tmp_path / "sealed", tmp_path / "back", key=key, embedded_path="p", progress=unsealing.append)
    assert sum(sealing) == sum(unsealing) == size
    assert len(sealing) == len(unsealing) > 8


def test_another_key_is_refused(tmp_path: Path, sealed: Path) -> None:
    with raises(
        SealingCode.SEALED_FILE_WRONG_KEY,
        match=r"sealed cannot be decrypted with this key: the MAC of its metadata \(node 0\) does not "
        r"match",
    ) as refused:
        unseal_file(sealed, tmp_path / "plain", key=SecretBytes(bytes(16)), embedded_path="models/m.bin")
    assert refused.value.code == "sealed-file.wrong-key"
    assert refused.value.exit_status == 3
    assert names(tmp_path) == {"sealed"}


def test_another_path_is_refused_and_both_are_named(tmp_path: Path, sealed: Path, key: SecretBytes) -> None:
    with pytest.raises(
        PathMismatchError, match=r"sealed was sealed for another path: expected 'models/n\.bin', got 'models/m\.bin'"
    ) as refused:
        unseal_file(sealed, tmp_path / "plain", key=key, embedded_path="models/n.bin")
    assert refused.value.code == "sealed-file.path-mismatch"
    assert (refused.value.expected, refused.value.found) == ("models/n.bin", "models/m.bin")
    assert names(tmp_path) == {"sealed"}


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_key_of_another_length_is_refused(length: int, tmp_path: Path, sealed: Path) -> None:
    with raises(SealingCode.SEALED_FILE_KEY_LENGTH, match=f"expected 16 bytes, got {length}"):
        seal_bytes(b"", tmp_path / "other", key=SecretBytes(bytes(length)), embedded_path="p")
    with raises(SealingCode.SEALED_FILE_KEY_LENGTH, match=f"expected 16 bytes, got {length}"):
        unseal_file(sealed, tmp_path / "plain", key=SecretBytes(bytes(length)), embedded_path="p")
    assert names(tmp_path) == {"sealed"}


@pytest.mark.parametrize("size", [0, 1, 8, 4095])
def test_less_than_a_node_is_cut_off(size: int, tmp_path: Path, sealed: Path, key: SecretBytes) -> None:
    sealed.write_bytes(sealed.read_bytes()[:size])
    with raises(SealingCode.SEALED_FILE_TRUNCATED, match=f"expected at least 4096 bytes, got {size}"):
        unseal_file(sealed, tmp_path / "plain", key=key, embedded_path="models/m.bin")


def test_a_cut_off_file_is_refused(tmp_path: Path, sealed: Path, key: SecretBytes) -> None:
    sealed.write_bytes(sealed.read_bytes()[:-4096])
    with raises(
        SealingCode.SEALED_FILE_TRUNCATED,
        match="sealed is truncated: expected 12288 bytes for a content of 7000 bytes, got 8192",
    ) as refused:
        unseal_file(sealed, tmp_path / "plain", key=key, embedded_path="models/m.bin")
    assert refused.value.code == "sealed-file.truncated"
    assert names(tmp_path) == {"sealed"}


def test_trailing_data_is_refused_unless_allowed(tmp_path: Path, sealed: Path, key: SecretBytes) -> None:
    sealed.write_bytes(sealed.read_bytes() + bytes(8192))
    with raises(
        SealingCode.SEALED_FILE_TRAILING_DATA,
        match="sealed has data after its last node: expected 12288 bytes, got 20480",
    ) as refused:
        unseal_file(sealed, tmp_path / "plain", key=key, embedded_path="models/m.bin")
    assert refused.value.code == "sealed-file.trailing-data"
    assert names(tmp_path) == {"sealed"}
    assert len(unseal_bytes(sealed, key=key, embedded_path="models/m.bin", allow_trailing=True)) == 7000


def test_any_other_file_is_refused(tmp_path: Path, key: SecretBytes) -> None:
    (tmp_path / "other").write_bytes(bytes(10000))
    with raises(
        SealingCode.SEALED_FILE_BAD_MAGIC,
        match=r"other is not a sealed file: expected the magic bytes [0-9a-f]{16} \(GRAFS_PF\), got "
        r"[0-9a-f]{16}",
    ):
        unseal_bytes(tmp_path / "other", key=key, embedded_path=None)
    with raises(
        SealingCode.SEALED_FILE_BAD_MAGIC,
        match=r"other is not a sealed file: expected the magic bytes [0-9a-f]{16} \(GRAFS_PF\), got "
        r"[0-9a-f]{16}",
    ):
        inspect_file(tmp_path / "other")


def test_an_existing_output_is_kept(tmp_path: Path, sealed: Path, key: SecretBytes) -> None:
    (tmp_path / "plain").write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=r"The output .*plain already exists"):
        unseal_file(sealed, tmp_path / "plain", key=key, embedded_path=None)
    before = sealed.read_bytes()
    with pytest.raises(OutputExistsError, match=r"The output .*sealed already exists"):
        seal_file(tmp_path / "plain", sealed, key=key, embedded_path="p")
    assert (tmp_path / "plain").read_bytes() == b"old"
    assert sealed.read_bytes() == before
    unseal_file(sealed, tmp_path / "plain", key=key, embedded_path=None, overwrite=True)
    assert (tmp_path / "plain").read_bytes() == b"content" * 1000


def test_a_failure_keeps_the_output_that_should_be_replaced(tmp_path: Path, sealed: Path, key: SecretBytes) -> None:
    (tmp_path / "plain").write_bytes(b"old")
    with raises(SealingCode.SEALED_FILE_WRONG_KEY):
        unseal_file(sealed, tmp_path / "plain", key=SecretBytes(bytes(16)), embedded_path=None, overwrite=True)
    assert (tmp_path / "plain").read_bytes() == b"old"
    assert names(tmp_path) == {"sealed", "plain"}
    assert key == SecretBytes(bytes(range(16)))


def test_an_output_in_no_folder_is_refused(tmp_path: Path, key: SecretBytes) -> None:
    with raises(SealserveCode.FILE_UNWRITABLE, match="No such file or directory"):
        seal_bytes(b"", tmp_path / "none" / "sealed", key=key, embedded_path="p")


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 772, "\ud800"])
def test_a_path_that_cannot_be_embedded_is_refused(path: str, tmp_path: Path, key: SecretBytes) -> None:
    with raises(SealingCode.SEALED_FILE_UNUSABLE_PATH, match="embedded path") as refused:
        seal_bytes(b"", tmp_path / "sealed", key=key, embedded_path=path)
    assert refused.value.code == "sealed-file.unusable-path"
    assert names(tmp_path) == set()


def test_the_longest_path_can_be_embedded(tmp_path: Path, key: SecretBytes) -> None:
    seal_bytes(b"", tmp_path / "sealed", key=key, embedded_path="ü" * 385 + "x")
    assert len(unseal_bytes(tmp_path / "sealed", key=key, embedded_path="ü" * 385 + "x")) == 0


def test_paths_are_normalised_as_gramine_does() -> None:
    assert normalise("./a//b/../c") == "a/c"
    assert normalise("../a/./b/") == "../a/b"
    assert normalise("//a/b") == "/a/b"


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", ".", "a/./b", "..", "a/../b", "a\nb", "\x1b[1m", "\ud800", "a" * 772]
)
def test_unsafe_paths_are_told(path: str) -> None:
    assert not is_safe_relative(path)


@pytest.mark.parametrize("path", ["a", "a/b c", "...", "a/..b", "ü"])
def test_safe_paths_are_told(path: str) -> None:
    assert is_safe_relative(path)


def test_a_source_that_grows_is_noticed(tmp_path: Path, key: SecretBytes) -> None:
    source = tmp_path / "plain"
    source.write_bytes(bytes(MIB))

    def grow(_: int) -> None:
        with source.open("ab") as stream:
            stream.write(b"more")

    with raises(
        SealingCode.SEALED_FILE_SOURCE_CHANGED,
        match=r"plain changed while it was being sealed \(its initial size was 1048576 bytes\)",
    ) as refused:
        seal_file(source, tmp_path / "sealed", key=key, embedded_path="p", progress=grow)
    assert refused.value.code == "sealed-file.source-changed"
    assert names(tmp_path) == {"plain"}


def test_a_source_that_shrinks_is_noticed(tmp_path: Path, key: SecretBytes) -> None:
    source = tmp_path / "plain"
    source.write_bytes(bytes(MIB))
    with raises(SealingCode.SEALED_FILE_SOURCE_CHANGED):
        seal_file(source, tmp_path / "sealed", key=key, embedded_path="p", progress=lambda _: os.truncate(source, 100))
    assert names(tmp_path) == {"plain"}


def test_a_sealed_file_that_shrinks_meanwhile_is_noticed(tmp_path: Path, key: SecretBytes) -> None:
    sealed = tmp_path / "sealed"

    def cut_at(size: int) -> None:
        seal_bytes(bytes(4 * MIB), sealed, key=key, embedded_path="p", overwrite=True)
        unseal_file(
            sealed, tmp_path / "plain", key=key, embedded_path="p", progress=lambda _: os.truncate(sealed, size)
        )

    with raises(
        SealingCode.SEALED_FILE_TRUNCATED,
        match=r"became shorter while it was read: node 300 \(data node 295\) is missing",
    ):
        cut_at(300 * 4096)
    with raises(SealingCode.SEALED_FILE_TRUNCATED, match=r"node 1 \(MHT node 0\) is missing"):
        cut_at(4096)
    assert names(tmp_path) == {"sealed"}


@pytest.mark.parametrize("cause", [KeyboardInterrupt, RuntimeError])
def test_cancelling_leaves_nothing(cause: type[BaseException], tmp_path: Path, key: SecretBytes) -> None:
    (tmp_path / "plain").write_bytes(bytes(MIB))
    seal_file(tmp_path / "plain", tmp_path / "sealed", key=key, embedded_path="p")

    def cancel(_: int) -> None:
        raise cause

    with pytest.raises(cause):
        seal_file(tmp_path / "plain", tmp_path / "other", key=key, embedded_path="p", progress=cancel)
    with pytest.raises(cause):
        unseal_file(tmp_path / "sealed", tmp_path / "other", key=key, embedded_path="p", progress=cancel)
    assert names(tmp_path) == {"plain", "sealed"}


def test_no_room_is_a_clear_error(tmp_path: Path, key: SecretBytes) -> None:
    (tmp_path / "plain").write_bytes(bytes(2 * MIB))
    seal_file(tmp_path / "plain", tmp_path / "sealed", key=key, embedded_path="p")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))  # the kernel then rejects further writes, as on a full disk
    try:
        with raises(SealserveCode.FILE_DISK_FULL, match=r"The disk is full: .*other cannot be written") as refused:
            seal_file(tmp_path / "plain", tmp_path / "other", key=key, embedded_path="p")
        with raises(SealserveCode.FILE_DISK_FULL, match=r"The disk is full: .*other cannot be written"):
            unseal_file(tmp_path / "sealed", tmp_path / "other", key=key, embedded_path="p")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.code == "file.disk-full"
    assert refused.value.exit_status == 4
    assert names(tmp_path) == {"plain", "sealed"}


def test_a_full_disk_is_a_clear_error(tmp_path: Path, key: SecretBytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with raises(SealserveCode.FILE_DISK_FULL, match=r"The disk is full: .*sealed cannot be written"):
        seal_bytes(bytes(MIB), tmp_path / "sealed", key=key, embedded_path="p")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("size", [12 * MIB, 48 * MIB])
@pytest.mark.parametrize("threads", [1, 3])
def test_memory_does_not_grow_with_the_file(threads: int, size: int, tmp_path: Path, key: SecretBytes) -> None:
    """Both sizes have the same bound. The peaks are not compared: the number of held pieces depends on scheduling."""
    with (tmp_path / "plain").open("wb") as stream:
        stream.truncate(size)
    tracemalloc.start()
    try:
        seal_file(tmp_path / "plain", tmp_path / "sealed", key=key, embedded_path="p", overwrite=True, threads=threads)
        unseal_file(tmp_path / "sealed", tmp_path / "back", key=key, embedded_path="p", overwrite=True, threads=threads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "back").stat().st_size == size
    assert peak < threads * MIB + MIB  # the bound in docs/reference/encrypted-files.md


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same(threads: int, tmp_path: Path, key: SecretBytes) -> None:
    content = hashlib.shake_128(b"threads").digest(14 * MIB + 5)  # 37 groups
    (tmp_path / "plain").write_bytes(content)
    sealing: list[int] = []
    unsealing: list[int] = []
    seal_file(
        tmp_path / "plain", tmp_path / "sealed", key=key, embedded_path="p", threads=threads, progress=sealing.append
    )
    assert unseal_bytes(tmp_path / "sealed", key=key, embedded_path="p").reveal() == content
    unseal_file(
        tmp_path / "sealed", tmp_path / "back", key=key, embedded_path="p", threads=threads, progress=unsealing.append
    )
    assert (tmp_path / "back").read_bytes() == content
    assert sum(sealing) == sum(unsealing) == len(content)


def test_of_several_bad_nodes_threads_name_the_first(tmp_path: Path, key: SecretBytes) -> None:
    seal_bytes(bytes(14 * MIB), tmp_path / "sealed", key=key, embedded_path="p")
    with (tmp_path / "sealed").open("r+b") as stream:
        for position in (1 + 97 * 36, 1 + 97 * 30, 2000, 1500, 1499):
            stream.seek(4096 * position + 7)
            stream.write(b"x")
    with pytest.raises(TamperedNodeError, match=r"node 1499 \(data node 1482\), at byte 6139904"):
        unseal_file(tmp_path / "sealed", tmp_path / "back", key=key, embedded_path="p", threads=3)
    assert names(tmp_path) == {"sealed"}


@pytest.mark.parametrize("cause", [KeyboardInterrupt, RuntimeError])
def test_cancelling_stops_all_threads(cause: type[BaseException], tmp_path: Path, key: SecretBytes) -> None:
    (tmp_path / "plain").write_bytes(bytes(14 * MIB))
    seal_file(tmp_path / "plain", tmp_path / "sealed", key=key, embedded_path="p")

    def cancel(done: int) -> None:
        if done > 3072:
            raise cause

    with pytest.raises(cause):
        seal_file(tmp_path / "plain", tmp_path / "other", key=key, embedded_path="p", threads=3, progress=cancel)
    with pytest.raises(cause):
        unseal_file(tmp_path / "sealed", tmp_path / "other", key=key, embedded_path="p", threads=3, progress=cancel)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sealing")]
    assert names(tmp_path) == {"plain", "sealed"}


def test_no_error_shows_the_key(tmp_path: Path, sealed: Path) -> None:
    key = SecretBytes(b"0123456789abcdef")
    with raises(SealingCode.SEALED_FILE_WRONG_KEY) as refused:
        unseal_file(sealed, tmp_path / "plain", key=key, embedded_path=None)
    derived = metadata_key(key, sealed.read_bytes()[10:42])
    for secret in (key.reveal(), derived):
        for form in (repr(secret)[2:-1], secret.hex()):
            assert form not in str(refused.value) + repr(refused.value)
