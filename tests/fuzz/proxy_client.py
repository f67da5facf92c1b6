"""Fuzz what a client of the verifying proxy sends: its first bytes, and the calls that are refused."""

import contextlib
from collections.abc import Iterator

from sealserve.client.http2_frames import PREFACE, frame
from sealserve.errors import SealserveError
from sealserve.proxy.first_bytes import Protocol, check_host, recognize
from sealserve.proxy.http2 import MalformedError, Refusal


def seeds() -> Iterator[bytes]:
    """Yield a request of each protocol."""
    yield (
        PREFACE
        + frame(0x4, 0, 0)
        + frame(0x6, 0, 0, b"12345678")
        + frame(0x1, 0x4, 1, b"fields")
        + frame(0, 1, 1, b"m")
    )
    yield b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost:8500\r\nOrigin: http://[::1]:1\r\n\r\n{}"
    yield b"\x16\x03\x01\x02\x00"


def fuzz(data: bytes) -> None:
    """Recognize the client, and refuse it."""
    if not data:
        return
    with contextlib.suppress(SealserveError, MalformedError):
        match recognize(data):
            case Protocol.HTTP1:
                check_host(data, server_name="service.example.com")
            case Protocol.HTTP2:
                refusal = Refusal(status=14, message="refused")
                answer = refusal.receive(data)
                assert len(answer) <= 64 * len(data) + 4096, "a client gets little more than it sends"
                refusal.goodbye()
