"""The bytes of a hostile peer that answers the request for evidence over HTTP/2."""

import ssl
from collections.abc import Iterator
from typing import Final, cast

from tests.harness import http2

from sealserve.client.single_call import CallRefusedError, ClosedAtOnceError, unary_call

LIMIT: Final = 1000


class _Peer:
    """A connection on which the peer sends bytes, and then closes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def settimeout(self, _: float) -> None:
        pass

    def sendall(self, _: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        part, self._content = self._content[:size], self._content[size:]
        return part


def seeds() -> Iterator[bytes]:
    settings = http2.frame(http2.SETTINGS, 0, 0, b"")
    message = b"\0" + (5).to_bytes(4, "big") + b"\x0a\x03abc"
    yield settings + http2.frame(http2.DATA, http2.END_STREAM, 1, message)
    yield settings + http2.frame(http2.DATA, 8, 1, b"\x02" + message + b"\0\0")
    yield settings + http2.frame(http2.PING, 0, 0, bytes(8)) + http2.frame(http2.GOAWAY, 0, 0, bytes(8))
    yield settings + http2.frame(http2.HEADERS, http2.END_STREAM, 1, b"\x00\x0bgrpc-status\x0212")


def fuzz(data: bytes) -> None:
    stream = cast(ssl.SSLSocket, _Peer(data))
    try:
        found = unary_call(stream, "/a/B", b"", authority="name", limit=LIMIT, timeout=lambda: 1.0)
    except (CallRefusedError, ClosedAtOnceError, OSError):
        return
    assert len(found) <= LIMIT
