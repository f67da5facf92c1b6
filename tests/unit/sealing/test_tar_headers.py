"""Tar headers that would consume memory or time, or cause an exception in the library."""

import contextlib
import io
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.errors import VerificationError
from sealserve.sealing import plain_tar
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.tar_headers import MAX_EXTENDED, PlainTarFile, pax_records

END = bytes(2 * tarfile.BLOCKSIZE)


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def record(keyword: str, value: str) -> bytes:
    rest = f" {keyword}={value}\n".encode()
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def pax(*records: tuple[str, str]) -> bytes:
    content = b"".join(record(*item) for item in records)
    return header(tarfile.XHDTYPE, len(content)) + padded(content)


def read(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    names = []
    with path.open("rb") as stream:
        for member, _ in plain_tar.members(stream, "hostile.tar"):
            plain_tar.check_member(member, "hostile.tar")
            names.append(f"{member.name}:{member.size}")
    return names


def test_a_path_and_a_size_of_an_extended_header_count(tmp_path: Path) -> None:
    long = "a/" * 200 + "b"
    content = pax(("path", long), ("size", "3"), ("mtime", "1.5")) + header(tarfile.REGTYPE, 0) + padded(b"abc") + END
    assert read(tmp_path / "tar", content) == [f"{long}:3"]
    gnu = header(tarfile.GNUTYPE_LONGNAME, len(long) + 1) + padded(long.encode() + b"\0") + header(tarfile.REGTYPE, 0)
    assert read(tmp_path / "tar", gnu + END) == [f"{long}:0"]


SPARSE_MAP = b"400000\n" + b"1\n" * 20_000  # longer than any parser reads
SPARSE = {
    "1.0": pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "y"))
    + header(tarfile.REGTYPE, len(SPARSE_MAP)) + padded(SPARSE_MAP),
    "0.1": pax(("GNU.sparse.map", "1,1," * 10_000 + "x")) + header(tarfile.REGTYPE, 0),
    "0.0": pax(("GNU.sparse.size", "9" * 30), ("GNU.sparse.offset", "1"), ("GNU.sparse.numbytes", "1"))
    + header(tarfile.REGTYPE, 0),
    "old": header(tarfile.GNUTYPE_SPARSE, 0)[:482] + b"\1" + header(tarfile.GNUTYPE_SPARSE, 0)[483:],
}  # fmt: skip


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("end", [b"", END, b"\1" * 512 * 100 + END], ids=["cut off", "whole", "with a map"])
def test_a_sparse_file_is_refused_before_its_map_is_read(tmp_path: Path, kind: str, end: bytes) -> None:
    content = SPARSE[kind]
    if kind == "old":  # its header announces further headers, so the checksum must be computed again
        block = bytearray(content)
        block[148:156] = b" " * 8
        block[148:156] = f"{sum(block):06o}\0 ".encode()
        content = bytes(block)
    with raises(SealingCode.ARCHIVE_UNSAFE_MEMBER, SealingCode.ARCHIVE_TRUNCATED) as caught:
        read(tmp_path / "tar", content + end)
    if end:
        assert isinstance(caught.value, VerificationError)
        assert caught.value.code == SealingCode.ARCHIVE_UNSAFE_MEMBER
        assert "is a sparse file" in caught.value.message


@pytest.mark.parametrize(
    "content",
    [
        header(tarfile.XHDTYPE, MAX_EXTENDED) + b"1" * MAX_EXTENDED,  # takes quadratic time with a regular expression
        header(tarfile.XHDTYPE, MAX_EXTENDED) + b"1 =" * (MAX_EXTENDED // 3) + b"1",
        header(tarfile.XHDTYPE, 512) + padded(b"999999 path=x\n"),
        header(tarfile.XHDTYPE, 512) + padded(b"0 path=x\n"),
        header(tarfile.XHDTYPE, 512) + padded(b"-9 path=x\n"),
        header(tarfile.XHDTYPE, 512) + padded(b"9 pathx\n"),
        header(tarfile.XHDTYPE, 11) + padded(b"11 path=\xff\xfe\n"),
        header(tarfile.XHDTYPE, 512) + padded(b"\xb2 path=x\n"),
        header(tarfile.XGLTYPE, 10) + padded(b"10 path=x\n"),
        pax(("size", "9" * 40)),
        pax(("size", "-1")),
        pax(("size", "\N{ARABIC-INDIC DIGIT ONE}")),
        pax(("path", "y")) * 5,
        (header(tarfile.GNUTYPE_LONGNAME, 2) + padded(b"y\0")) * 5,
        header(tarfile.XHDTYPE, 0) * 5,
        header(tarfile.SOLARIS_XHDTYPE, 0) * 5,
    ],
    ids=range(16),
)  # fmt: skip
def test_odd_headers_are_one_clear_error_at_once(tmp_path: Path, content: bytes) -> None:
    began = time.process_time()
    with raises(SealingCode.ARCHIVE_NOT_A_TAR, SealingCode.ARCHIVE_TRUNCATED):
        read(tmp_path / "tar", content + header(tarfile.REGTYPE, 0) + END)
    assert time.process_time() - began < 30  # some of them take hours with a regular expression


def test_an_extended_header_at_the_end_is_one_clear_error(tmp_path: Path) -> None:
    for content in (pax(("path", "y")) + END, pax(("path", "y")), header(tarfile.XHDTYPE, 512), header(b"7", 0)[:300]):
        with raises(SealingCode.ARCHIVE_NOT_A_TAR, SealingCode.ARCHIVE_TRUNCATED):
            read(tmp_path / "tar", content)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=1024).map(padded),
            st.tuples(st.sampled_from(b"01234567LKSxgXNVD\0"), st.integers(-512, 2048)).map(
                lambda item: header(bytes([item[0]]), item[1])
            ),
            st.tuples(st.text(max_size=12), st.text(max_size=12)).map(pax),
            st.sampled_from(list(SPARSE.values())),
        ),
        max_size=6,
    )
)
def test_whatever_comes_only_our_errors_or_the_librarys_known_ones_are_raised(parts: list[bytes]) -> None:
    content = b"".join(parts) + END
    try:
        archive = PlainTarFile.open(fileobj=io.BytesIO(content), mode="r:")
        for _ in range(20):
            if archive.next() is None:
                break
    except (tarfile.TarError, *plain_tar._LIBRARY_ERRORS):
        pass


@given(st.dictionaries(st.text("abc.", min_size=1), st.text(max_size=40), max_size=5))
def test_records_come_back(records: dict[str, str]) -> None:
    assert pax_records(b"".join(record(*item) for item in records.items())) == records


@given(st.binary(max_size=100))
def test_any_bytes_are_records_or_an_error(content: bytes) -> None:
    with contextlib.suppress(tarfile.ReadError, UnicodeDecodeError):
        pax_records(content)
