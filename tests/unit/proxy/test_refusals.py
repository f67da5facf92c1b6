"""A refused client receives an answer in its own protocol, and hostile clients cannot exhaust the proxy."""

import json
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.client.http2_frames import PREFACE, frame
from sealserve.proxy import http1
from sealserve.proxy.http2 import MalformedError, Refusal

SETTINGS, HEADERS, DATA, PING, GOAWAY, RST_STREAM = 0x4, 0x1, 0x0, 0x6, 0x7, 0x3


def refusal(message: str = "no") -> Refusal:
    return Refusal(status=9, message=message)


def frames(content: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return kind, flags, stream and payload of each frame."""
    found = []
    while content:
        size = int.from_bytes(content[:3])
        found.append((content[3], content[4], int.from_bytes(content[5:9]), content[9 : 9 + size]))
        content = content[9 + size :]
    return found


def test_each_call_is_answered_with_a_status() -> None:
    server = refusal("it has 100 % wrong keys: é")
    answer = server.receive(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, b"?") + frame(HEADERS, 5, 3, b"?"))
    kinds = [(kind, flags, stream) for kind, flags, stream, _ in frames(answer)]
    # The settings, their acknowledgement, and the answers. The first call has not sent its whole message yet.
    assert kinds == [(SETTINGS, 0, 0), (SETTINGS, 1, 0), (HEADERS, 5, 1), (RST_STREAM, 0, 1), (HEADERS, 5, 3)]
    assert b"\x0bgrpc-status\x019" in answer
    assert b"it has 100 %25 wrong keys: %C3%A9" in answer
    assert frames(server.goodbye()) == [(GOAWAY, 0, 0, bytes((0, 0, 0, 3, 0, 0, 0, 0)))]


def test_bytes_may_arrive_one_by_one() -> None:
    content = PREFACE + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"12345678") + frame(HEADERS, 5, 1, b"abc")
    one, all_at_once = refusal(), refusal()
    assert b"".join(one.receive(bytes((byte,))) for byte in content) == all_at_once.receive(content)
    assert one.answered == 1


def test_frames_of_refused_calls_are_ignored() -> None:
    server = refusal()
    server.receive(PREFACE + frame(HEADERS, 4, 1, b"?"))
    assert server.receive(frame(DATA, 0, 1, b"input") + frame(HEADERS, 5, 1, b"trailers")) == b""
    assert server.receive(frame(SETTINGS, 1, 0) + frame(PING, 1, 0, b"12345678")) == b""


def test_a_long_message_is_cut() -> None:
    answer = refusal("a" * 100_000).receive(PREFACE + frame(HEADERS, 5, 1))
    assert len(answer) < 16_384


@pytest.mark.parametrize(
    "content",
    [
        PREFACE.replace(b"SM", b"XX"),
        PREFACE + bytes((0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1)),
        PREFACE + b"".join(frame(HEADERS, 5, 2 * call + 1) for call in range(1001)),
    ],
)
def test_a_hostile_client_is_dropped(content: bytes) -> None:
    with pytest.raises(MalformedError):
        refusal().receive(content)


@given(st.binary(max_size=300))
def test_any_bytes_are_answered_or_dropped(content: bytes) -> None:
    server = refusal()
    try:
        server.receive(PREFACE + content)
    except MalformedError:
        return
    server.goodbye()


def test_the_answer_over_http1_has_the_form_of_tensorflow_serving() -> None:
    head, _, body = http1.refusal(HTTPStatus.BAD_GATEWAY, 'the "service" is down\r\n').partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"error": 'the "service" is down\r\n'}
