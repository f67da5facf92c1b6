import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.result_request import PROTOCOL, ResultClient, ResultRequest, ResultServer
from sealserve.errors import VerificationError

REQUEST = ResultRequest(audience="sealserve.client", nonce=bytes(range(32)))


def test_the_bytes_of_a_request() -> None:
    assert PROTOCOL == b"sealserve-token/1"
    assert REQUEST.to_bytes() == (
        b'\x00\x00\x00\x55{"audience":"sealserve.client","nonce":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}'
    )
    assert ResultRequest(audience="x").to_bytes() == b'\x00\x00\x00\x10{"audience":"x"}'


@given(st.lists(st.integers(1, 20)), st.none() | st.binary(min_size=8, max_size=64))
def test_messages_arrive_in_any_pieces(sizes: list[int], nonce: bytes | None) -> None:
    request = ResultRequest(audience="~!", nonce=nonce)
    server, client = ResultServer(), ResultClient()
    for side, message in ((server, request.to_bytes()), (client, server.respond("a.b.c"))):
        left = message
        for size in [*sizes, len(message)]:
            piece, left = left[:size], left[size:]
            if piece:
                assert side.receive(piece) == (not left)
        side.end()
    assert server.request() == request
    assert client.token() == "a.b.c"


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"[]",
        b"{}",
        b'{"audience":1}',
        b'{"audience":""}',
        b'{"audience":"a b"}',
        b'{"audience":"a\\n"}',
        b'{"audience":"\xc3\xa9"}',
        json.dumps({"audience": "a" * 256}).encode(),
        b'{"audience":"a","audience":"b"}',
        b'{"audience":"a","purpose":"b"}',
        b'{"audience":"a","nonce":null}',
        b'{"audience":"a","nonce":1}',
        b'{"audience":"a","nonce":"AAAA"}',
        b'{"audience":"a","nonce":"AAAAAAAAAAA="}',
        json.dumps({"audience": "a", "nonce": "A" * 88}).encode(),
        b'{"audience":NaN}',
        b'{"audience":' + b"[" * 400,
    ],
)
def test_a_wrong_request_is_rejected(content: bytes) -> None:
    server = ResultServer()
    assert server.receive(len(content).to_bytes(4, "big") + content)
    with raises(AttestationCode.TOKEN_REQUEST, match="The request for an attestation result is invalid"):
        server.request()


@pytest.mark.parametrize("start", [b"\0\0\0\0", b"\0\0\4\1", b"\xff\xff\xff\xff", b"GET / HT", b"SECRET_PROVISION"])
def test_a_wrong_length_is_rejected_at_once(start: bytes) -> None:
    with raises(AttestationCode.TOKEN_REQUEST, match="expected 1 to 1024 bytes"):
        ResultServer().receive(start)


def test_bytes_after_the_request_are_rejected() -> None:
    with raises(AttestationCode.TOKEN_REQUEST, match="Extra bytes follow"):
        ResultServer().receive(REQUEST.to_bytes() + b"x")


@pytest.mark.parametrize("size", [0, 1, 4, 20])
def test_an_incomplete_message_is_truncated(size: int) -> None:
    for side, message in ((ResultServer(), REQUEST.to_bytes()), (ResultClient(), ResultServer.respond("a" * 40))):
        side.receive(message[:size])
        assert side.started == (size > 0)
        with raises(AttestationCode.TOKEN_TRUNCATED, match=f"closed the session after {size} bytes"):
            side.end()


@pytest.mark.parametrize("token", [b"a b", b"a.b.c\n", b"\xff", b"\x1b[31m"])
def test_a_response_with_other_characters_is_rejected(token: bytes) -> None:
    client = ResultClient()
    assert client.receive(len(token).to_bytes(4, "big") + token)
    with raises(AttestationCode.TOKEN_RESPONSE, match="expected base64url and dots"):
        client.token()


def test_a_response_that_is_too_large_is_rejected_at_once() -> None:
    with raises(AttestationCode.TOKEN_RESPONSE, match="expected 1 to 16384 bytes"):
        ResultClient().receive(b"\0\0\x40\1")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(content: bytes) -> None:
    server = ResultServer()
    with contextlib.suppress(VerificationError):  # anything else, such as a TypeError, is a bug
        if server.receive(content):
            server.request()
