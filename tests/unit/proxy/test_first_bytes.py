"""The protocol of a client is recognized from its first bytes, and requests of web pages are refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.client.http2_frames import PREFACE
from sealserve.errors import InputError, VerificationError
from sealserve.proxy.first_bytes import LARGEST_HEAD, Protocol, check_host, recognize

NAME = "grpc.tf-serving.service.com"
REQUEST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost:8500\r\n\r\n{}"


@pytest.mark.parametrize(("content", "protocol"), [(PREFACE + b"more", Protocol.HTTP2), (REQUEST, Protocol.HTTP1)])
def test_a_protocol_is_recognized_as_soon_as_its_first_bytes_are_complete(content: bytes, protocol: Protocol) -> None:
    found = [recognize(content[:size]) for size in range(1, len(content) + 1)]
    first = found.index(protocol)
    assert set(found[:first]) <= {None}
    assert set(found[first:]) == {protocol}


def test_a_client_with_tls_learns_that_the_proxy_has_none() -> None:
    with pytest.raises(InputError, match=r"The client uses TLS: expected HTTP without TLS") as caught:
        recognize(b"\x16\x03\x01\x02\x00")
    assert caught.value.code == "proxy.first-bytes"


@pytest.mark.parametrize("content", [b"\x00", b"SSH-2.0-OpenSSH_9.6\r\n", b"get / HTTP/1.1\r\n"])
def test_another_protocol_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"neither HTTP/2 nor HTTP/1\.1") as caught:
        recognize(content)
    assert caught.value.code == "proxy.first-bytes"


def test_the_head_of_a_request_is_limited() -> None:
    assert recognize(b"GET / HTTP/1.1\r\n".ljust(LARGEST_HEAD, b"a")) is None
    with pytest.raises(InputError, match="too large") as caught:
        recognize(b"GET / HTTP/1.1\r\n".ljust(LARGEST_HEAD + 100, b"a") + b"\r\n\r\n")
    assert caught.value.code == "proxy.first-bytes"


@given(st.binary(min_size=1, max_size=200))
def test_any_first_bytes_are_accepted_or_refused_with_a_code(content: bytes) -> None:
    with contextlib.suppress(InputError):
        assert recognize(content) in {None, Protocol.HTTP1, Protocol.HTTP2}


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: localhost",
        b"Host: localhost:8500",
        b"host:127.0.0.1:8500",
        b"Host: [::1]:8500",
        b"HOST: " + NAME.upper().encode(),
        b"Host: localhost\r\nOrigin: http://localhost:3000",
        b"Host: localhost\r\nOrigin: http://[::1]:3000",
        b"Accept: */*",
    ],
)
def test_requests_for_this_machine_are_accepted(fields: bytes) -> None:
    check_host(b"GET / HTTP/1.1\r\n" + fields + b"\r\n\r\nHost: evil.example", server_name=NAME)


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: evil.example",
        b"Host: localhost.evil.example:8500",
        b"Host: localhost\r\nHost: evil.example",
        b"Host: 127.0.0.1:8500\r\nOrigin: https://evil.example",
        b"Host: 127.0.0.1:8500\r\norigin: null",
        b"Host: 127.0.0.1:8500\r\nOrigin: http://203.0.113.5",
        b"Host: 127.0.0.1:8500\r\nOrigin: http://[2001:db8::5]:8080",
        b"Host: 127.0.0.1.evil.example",
        b"Host: \xff\x00\x1b[2J",
        b"Host:",
    ],
)
def test_requests_of_web_pages_elsewhere_are_refused(fields: bytes) -> None:
    with pytest.raises(VerificationError, match=r"The request was refused: expected the (host|origin)") as caught:
        check_host(b"GET / HTTP/1.1\r\n" + fields + b"\r\n\r\n", server_name=NAME)
    assert caught.value.code == "proxy.host"
    assert caught.value.message.isprintable()
