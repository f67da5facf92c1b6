"""The key that authenticates rows verifies each row once, and accepts nothing else for it."""

import pytest

from sealserve.broker import row_key
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.secret import SecretBytes


def test_a_verified_row_with_equal_values_of_another_type_is_verified_again() -> None:
    key = RowKey(SecretBytes(b"k" * KEY_SIZE))
    tag = key.tag("t", {"number": 1, "text": "x"})
    for _ in range(2):
        assert key.is_tag(tag, "t", {"number": 1, "text": "x"})
        for other in (1.0, True, "1", None, [1]):
            assert not key.is_tag(tag, "t", {"number": other, "text": "x"})
        assert not key.is_tag(tag, "u", {"number": 1, "text": "x"})
        assert not key.is_tag(tag, "t", {"text": 1, "number": "x"})
        assert not key.is_tag(tag.upper(), "t", {"number": 1, "text": "x"})
        assert not key.is_tag(tag.encode(), "t", {"number": 1, "text": "x"})


def test_the_verified_rows_of_a_key_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_key, "_MOST_VERIFIED", 3)
    key = RowKey(SecretBytes(b"k" * KEY_SIZE))
    for number in range(10):
        assert key.is_tag(key.tag("t", {"number": number}), "t", {"number": number})
        assert len(key._verified) <= 3
