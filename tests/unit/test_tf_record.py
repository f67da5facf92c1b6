from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.tf_record import DamagedRecordError, read_records, record


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("records") / "file"
    path.write_bytes(b"".join(record(content) for content in contents))
    assert list(read_records(path)) == contents


def test_a_record_of_tensorflow_is_the_same() -> None:
    """The bytes that TensorFlow 2.21's ``TFRecordWriter`` writes for the content ``abc``."""
    assert record(b"abc").hex() == "0300000000000000b099490e6162636e57f121"


@pytest.mark.parametrize("size", [1, 11, 12, 15, 18])
def test_a_file_that_ends_too_early_is_damaged(tmp_path: Path, size: int) -> None:
    first = record(b"first")
    path = tmp_path / "file"
    path.write_bytes(first + record(b"abc")[:size])
    records = read_records(path)
    assert next(records) == b"first"
    with pytest.raises(DamagedRecordError, match=rf"corrupted record at {len(first)}"):
        next(records)


def test_a_length_that_the_file_cannot_have_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff" * 8 + record(b"abc")[8:])
    with pytest.raises(DamagedRecordError):
        list(read_records(path))
