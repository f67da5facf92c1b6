import stat
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.atomic_file import OutputExistsError
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.wrap_key import create_wrap_key, read_wrap_key


def test_a_new_key_is_private_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "wrap.key"
    made = create_wrap_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_wrap_key(path) == made
    assert path.read_bytes() == made.reveal()
    with pytest.raises(OutputExistsError, match=r"The output .*wrap\.key already exists"):
        create_wrap_key(path)
    assert path.read_bytes() == made.reveal()


@pytest.mark.parametrize("content", [b"", bytes(15), bytes(17), b"0" * 32 + b"\n"], ids=len)
def test_a_key_of_another_size(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrap.key"
    path.write_bytes(content)
    with raises(
        SealingCode.WRAP_KEY_SIZE, match=r"The key file .*wrap\.key has an invalid size: expected exactly 16 bytes"
    ) as caught:
        read_wrap_key(path)
    assert caught.value.code == "wrap-key.size"
    assert caught.value.hint == "Use a file of raw bytes: no text encoding, and no newline at its end."


@pytest.mark.parametrize(("name", "reason"), [("none", "No such file"), (".", "Is a directory")])
def test_a_key_that_cannot_be_read(tmp_path: Path, name: str, reason: str) -> None:
    with raises(SealingCode.WRAP_KEY_MISSING, match=rf"The key file .* cannot be read: {reason}") as caught:
        read_wrap_key(tmp_path / name)
    assert caught.value.code == "wrap-key.missing"
    assert "--new-key" in (caught.value.hint or "")
