import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.atomic_file import OutputExistsError
from sealserve.errors import SealserveError, VerificationError
from sealserve.regular_file import InputFileMissingError
from sealserve.sealing import archive, plain_tar
from sealserve.sealing.archive import pack, unpack
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.file_tree import list_folder
from sealserve.sealing.release import Release, verify_release
from sealserve.sealing.release_files import ReleaseFileChangedError, ReleaseFileMissingError

MODEL = "models/resnet50/1/saved_model.pb"
Member = tuple[tarfile.TarInfo, bytes]
Change = Callable[[list[Member]], list[Member]]


@pytest.fixture
def packed(release: Release, tmp_path: Path) -> Path:
    (release.folder / "enclave").mkdir()
    (release.folder / "enclave" / "replica-0.manifest.sgx").write_bytes(b"manifest")
    (release.folder / "enclave" / "replica-0.sig").write_bytes(bytes(1808))
    pack(release.folder, tmp_path / "release.tar")
    return tmp_path / "release.tar"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    folder = tmp_path / "host"
    folder.mkdir()
    return folder


def members(tar: Path) -> list[Member]:
    with tarfile.open(tar) as opened:
        return [(member, (opened.extractfile(member) or io.BytesIO()).read()) for member in opened]


def write(tar: Path, content: list[Member]) -> None:
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as opened:
        for member, data in content:
            opened.addfile(member, io.BytesIO(data))


def member(name: str, data: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def refusal(tar: Path, host: Path, signer: Ed25519PrivateKey) -> SealserveError:
    with pytest.raises(SealserveError) as refused:
        unpack(tar, host, owner_key=signer.public_key())
    assert list(host.iterdir()) == []
    return refused.value


def test_what_is_packed_comes_back(release: Release, packed: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    verified = unpack(packed, host, owner_key=signer.public_key())
    assert verified.id == release.id
    assert verified.folder == host / release.folder.name
    assert list_folder(verified.folder) == list_folder(release.folder)
    for path in list_folder(release.folder).files:
        assert (verified.folder / path).read_bytes() == (release.folder / path).read_bytes()
    assert verify_release(verified.folder, signer.public_key()) == verified


def test_packing_is_deterministic_and_puts_the_index_first(release: Release, packed: Path, tmp_path: Path) -> None:
    (release.folder / MODEL).touch()
    pack(release.folder, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == packed.read_bytes()
    names = [info.name for info, _ in members(packed)]
    assert names[:4] == ["release.json", "release.json.sig", "enclave/replica-0.manifest.sgx", "enclave/replica-0.sig"]
    assert names[4:] == [file.path for file in release.index.files]


def test_an_existing_output_is_kept(release: Release, packed: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    with pytest.raises(OutputExistsError, match=r"The output .*release\.tar already exists"):
        pack(release.folder, packed)
    unpack(packed, host, owner_key=signer.public_key())
    with pytest.raises(OutputExistsError, match=f"{release.folder.name} already exists"):
        unpack(packed, host, owner_key=signer.public_key())
    assert [path.name for path in host.iterdir()] == [release.folder.name]


def test_only_a_whole_release_is_packed(release: Release, tmp_path: Path) -> None:
    (release.folder / MODEL).unlink()
    with pytest.raises(ReleaseFileMissingError, match=f"missing: '{MODEL}'"):
        pack(release.folder, tmp_path / "release.tar")
    (release.folder / "release.json").unlink()
    with raises(SealingCode.RELEASE_INCOMPLETE, match=r"is not a complete release: the file release\.json is missing"):
        pack(release.folder, tmp_path / "release.tar")
    assert not (tmp_path / "release.tar").exists()


def test_a_missing_archive_is_told(tmp_path: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    assert isinstance(refusal(tmp_path / "none.tar", host, signer), InputFileMissingError)


def test_another_owners_archive_is_refused_before_its_files_are_written(
    packed: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original = plain_tar.write

    def record(content: BinaryIO, path: Path) -> None:
        written.append(path.name)
        original(content, path)

    monkeypatch.setattr(plain_tar, "write", record)
    assert isinstance(error := refusal(packed, host, Ed25519PrivateKey.generate()), VerificationError)
    assert error.code == SealingCode.INDEX_BAD_SIGNATURE
    assert written == ["release.json", "release.json.sig"]


def replaced(name: str, *new: Member) -> Change:
    def change(content: list[Member]) -> list[Member]:
        return [item for old in content for item in (new if old[0].name == name else (old,))]

    return change


def added(*new: Member) -> Change:
    return lambda content: [*content, *new]


LINK: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
HOSTILE: dict[str, tuple[Change, str, str]] = {
    "parent folder": (added(member("../evil")), "archive.unsafe-path", r"'\.\./evil'"),
    "parent folder within": (added(member("enclave/../../evil")), "archive.unsafe-path", "evil"),
    "absolute": (added(member("/etc/cron.d/evil")), "archive.unsafe-path", "'/etc/cron.d/evil'"),
    "control characters": (added(member("enclave/\x1b[2J")), "archive.unsafe-path", "x1b"),
    "dot": (added(member("./enclave/x")), "archive.unsafe-path", r"'\./enclave/x'"),
    "too long": (added(member("enclave/" + "x" * 772)), "archive.unsafe-path", "xxx"),
    "symbolic link": (added(member("enclave/x", **LINK)), "archive.unsafe-member", "'enclave/x' is a symbolic link"),
    "symbolic link for a file": (replaced(MODEL, member(MODEL, **LINK)), "archive.unsafe-member", "a symbolic link"),
    "symbolic link for a folder": (
        lambda content: [*content[:2], member("enclave", type=tarfile.SYMTYPE, linkname="/"), *content[2:]],
        "archive.unsafe-member",
        "'enclave' is a symbolic link",
    ),
    "hard link": (
        added(member("enclave/x", type=tarfile.LNKTYPE, linkname="/etc/shadow")),
        "archive.unsafe-member",
        "a hard link",
    ),
    "character device": (
        added(member("enclave/x", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
        "archive.unsafe-member",
        "a device",
    ),
    "block device": (added(member("enclave/x", type=tarfile.BLKTYPE)), "archive.unsafe-member", "a device"),
    "pipe": (added(member("enclave/x", type=tarfile.FIFOTYPE)), "archive.unsafe-member", "a pipe"),
    "folder": (added(member("enclave/x", type=tarfile.DIRTYPE)), "archive.unsafe-member", "a folder"),
    "contiguous file": (
        added(member("enclave/x", type=tarfile.CONTTYPE)),
        "archive.unsafe-member",
        "not a regular file",
    ),
    "unknown kind": (added(member("enclave/x", type=b"Z")), "archive.unsafe-member", "not a regular file"),
    "sparse file": (
        added(
            member(
                "enclave/x",
                b"1\n0\n1\n".ljust(512, b"\0") + b"x",
                pax_headers={
                    "GNU.sparse.major": "1",
                    "GNU.sparse.minor": "0",
                    "GNU.sparse.name": "enclave/x",
                    "GNU.sparse.realsize": str(2**40),
                },
            )
        ),
        "archive.unsafe-member",
        "a sparse file",
    ),
    "twice": (
        lambda content: [*content, content[-1]],
        "archive.duplicate-member",
        r"the path 'tls/ssl\.cfg' occurs twice",
    ),
    "index twice": (
        lambda content: [*content, content[0]],
        "archive.duplicate-member",
        r"the path 'release\.json' occurs twice",
    ),
    "file and folder": (
        added(member("enclave/replica-0.sig/x")),
        "archive.duplicate-member",
        "both a file and a folder",
    ),
    "folder and file": (
        lambda content: [*content[:2], member("enclave/a/b"), member("enclave/a"), *content[2:]],
        "archive.duplicate-member",
        "'enclave/a' occurs twice, or is both",
    ),
    "not in the index": (
        added(member("models/evil")),
        "archive.unexpected-member",
        "'models/evil', which is not in the sig",
    ),
    "a file named enclave": (
        lambda content: [*content[:2], *content[4:], member("enclave")],
        "archive.unexpected-member",
        "'enclave', which is not in the signed",
    ),
    "files before the index": (
        lambda content: content[::-1],
        "archive.unexpected-member",
        r"comes before release\.json and release\.json\.sig",
    ),
    "larger than in the index": (
        replaced(MODEL, member(MODEL, bytes(2**20))),
        "archive.too-large",
        "expected 16384 bytes as in the signed index, got 1048576",
    ),
    "smaller than in the index": (
        replaced(MODEL, member(MODEL)),
        "archive.too-large",
        "expected 16384 bytes as in the signed index, got 0",
    ),
    "huge signature": (
        replaced("release.json.sig", member("release.json.sig", bytes(2**20))),
        "archive.too-large",
        "at most 64",
    ),
    "no index": (lambda content: content[1:2], "release.incomplete", r"release\.json or release\.json\.sig is missing"),
    "a file is missing": (replaced(MODEL), "release.file-missing", f"missing: '{MODEL}'"),
    "a file is changed": (
        replaced(MODEL, member(MODEL, bytes(16384))),
        "release.file-changed",
        f"changed: '{MODEL}'",
    ),
    "index changed": (
        lambda content: [member("release.json", b"{}"), *content[1:]],
        "index.bad-signature",
        "does not verify",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(
    case: str, packed: Path, tmp_path: Path, host: Path, signer: Ed25519PrivateKey
) -> None:
    change, code, message = HOSTILE[case]
    write(tmp_path / "hostile.tar", change(members(packed)))
    before = {path for path in tmp_path.rglob("*") if "releases" not in path.parts}
    error = refusal(tmp_path / "hostile.tar", host, signer)
    assert error.code == code
    assert error.exit_status == 3
    with pytest.raises(SealserveError, match=message):
        raise error
    assert {path for path in tmp_path.rglob("*") if "releases" not in path.parts} == before


def test_enclave_files_are_bounded_in_size_and_number(
    packed: Path, tmp_path: Path, host: Path, signer: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_ENCLAVE_SIZE", 2**16)
    monkeypatch.setattr(archive, "MAX_ENCLAVE_FILES", 16)
    for extra in ([member("enclave/x", bytes(65000))], [member(f"enclave/{number}") for number in range(14)]):
        write(tmp_path / "hostile.tar", [*members(packed), *extra, member("enclave/last", b"x")])
        error = refusal(tmp_path / "hostile.tar", host, signer)
        assert error.code == "archive.too-large"
        assert "expected at most" in error.message


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [2**33, 2**21, -512])
def test_an_extended_header_of_any_size_is_not_read(
    kind: bytes, size: int, tmp_path: Path, host: Path, signer: Ed25519PrivateKey
) -> None:
    (tmp_path / "bomb.tar").write_bytes(header("x", kind, size) + bytes(2**16))
    error = refusal(tmp_path / "bomb.tar", host, signer)
    assert error.code == "archive.not-a-tar"
    assert f"a header claims {size} bytes" in error.message


def test_a_chain_of_extended_headers_ends(tmp_path: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    (tmp_path / "chain.tar").write_bytes((header("x", tarfile.XHDTYPE, 0)) * 5000 + bytes(2**16))
    assert refusal(tmp_path / "chain.tar", host, signer).code == "archive.not-a-tar"


def test_a_member_of_negative_size_is_refused(tmp_path: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    (tmp_path / "back.tar").write_bytes(header("release.json", tarfile.REGTYPE, -1024) + bytes(2**16))
    assert refusal(tmp_path / "back.tar", host, signer).code == "archive.too-large"


@pytest.mark.parametrize("content", [b"", b"text", b"no tar" * 1000, bytes(100), b"\x1f\x8b" + bytes(2000)])
def test_any_other_file_is_refused(content: bytes, tmp_path: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    (tmp_path / "other").write_bytes(content)
    error = refusal(tmp_path / "other", host, signer)
    assert error.code == "archive.not-a-tar"
    assert "is not a tar archive" in error.message


def test_zeros_are_an_empty_archive(tmp_path: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    (tmp_path / "zeros").write_bytes(bytes(10240))
    assert refusal(tmp_path / "zeros", host, signer).code == "release.incomplete"


def test_trailing_data_is_refused(packed: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    packed.write_bytes(packed.read_bytes() + b"more")
    error = refusal(packed, host, signer)
    assert error.code == "archive.trailing-data"
    assert "expected a member or the end of the archive" in error.message


def test_megabytes_of_zeros_behind_the_end_are_refused(packed: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    packed.write_bytes(packed.read_bytes() + bytes(2**21))
    assert refusal(packed, host, signer).code == "archive.trailing-data"


def test_truncation_anywhere_is_refused(packed: Path, host: Path, signer: Ed25519PrivateKey) -> None:
    raw = packed.read_bytes()
    with tarfile.open(packed) as opened:
        starts = [info.offset for info in opened]
        content = [info.offset_data for info in opened]
        end = opened.offset
    for size in sorted({*starts[1:], *content, *(at + 100 for at in starts[1:] + content), end, end + 512}):
        packed.write_bytes(raw[:size])
        error = refusal(packed, host, signer)
        assert error.code == "archive.truncated", size
        assert "is truncated: it ends" in error.message


def test_a_full_release_is_not_replaced_by_a_failed_one(
    packed: Path, tmp_path: Path, host: Path, signer: Ed25519PrivateKey
) -> None:
    verified = unpack(packed, host, owner_key=signer.public_key())
    write(tmp_path / "bad.tar", replaced(MODEL, member(MODEL, bytes(16384)))(members(packed)))
    with pytest.raises(ReleaseFileChangedError):
        unpack(tmp_path / "bad.tar", host, owner_key=signer.public_key())
    assert [path.name for path in host.iterdir()] == [verified.folder.name]
    verify_release(verified.folder, signer.public_key())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_without_effect(
    data: st.DataObject, release: Release, packed: Path, host: Path, signer: Ed25519PrivateKey
) -> None:
    whole = packed.read_bytes()
    with tarfile.open(packed) as opened:
        headers = [info.offset for info in opened]
    in_header = st.builds(int.__add__, st.sampled_from(headers), st.integers(0, 511))
    offset = data.draw(in_header | st.integers(0, len(whole) - 1))
    raw = bytearray(whole)
    raw[offset] ^= 1 << data.draw(st.integers(0, 7))
    packed.write_bytes(raw)
    try:
        verified = unpack(packed, host, owner_key=signer.public_key())
    except VerificationError:
        assert list(host.iterdir()) == []
    else:
        assert verified.id == release.id
        shutil.rmtree(verified.folder)
    finally:
        packed.write_bytes(whole)
