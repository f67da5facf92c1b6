import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.serving.request_errors import RequestCode, RequestError
from sealserve.serving.wire.field_counts import MOST_FIELDS, SMALL, Counted, check_counts

PADDING = b"\x7a\xff\xff\x04" + bytes(81_919)
"""The field 15 with many bytes, so that the fields of the message are counted."""
TWO_LEVELS = Counted({1: Counted()})


@pytest.mark.parametrize(
    "field",
    [b"\x08\x01", b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\x12\x00"],
    ids=["varint", "fixed64", "fixed32", "bytes"],
)
def test_fields_of_each_kind_are_counted(field: bytes) -> None:
    check_counts(PADDING + field * (MOST_FIELDS - 1), TWO_LEVELS)
    with raises(RequestCode.MALFORMED, match="more than 4096 fields"):
        check_counts(PADDING + field * MOST_FIELDS, TWO_LEVELS)


def test_fields_of_inner_messages_count_too() -> None:
    inner = b"\x12\x00" * 100
    message = PADDING + (b"\x0a\xc8\x01" + inner) * 41
    check_counts(message, Counted())
    with raises(RequestCode.MALFORMED, match="more than 4096 fields"):
        check_counts(message, TWO_LEVELS)


@pytest.mark.parametrize("end", [b"\x0b", b"\x0a\x05a", b"\x08", b"\x08" + b"\xff" * 11, b"\xff", b"\x0d\x00"])
def test_what_is_not_a_message(end: bytes) -> None:
    with raises(RequestCode.MALFORMED):
        check_counts(PADDING + end, TWO_LEVELS)


def test_a_small_message_is_not_counted() -> None:
    check_counts(b"\x08\x01" * (SMALL // 2), TWO_LEVELS)


@given(st.binary(max_size=300))
def test_any_bytes_are_counted_or_refused(content: bytes) -> None:
    with contextlib.suppress(RequestError):  # any other error is a fault
        check_counts(PADDING + content, TWO_LEVELS)
