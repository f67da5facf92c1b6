"""One gRPC call on an open TLS connection, with as much of HTTP/2 as this needs.

grpcio opens its connections itself and does not show their certificates. A user who requests evidence must know the
certificate of exactly the connection that the answer arrives on. The request and its answer fit into the windows of
HTTP/2, so that the call needs no flow control.

Source: RFC 9113 (frames); RFC 7541 section 6.2.2 (headers without compression); gRPC over HTTP/2
(``grpc/doc/PROTOCOL-HTTP2.md``).
"""

import ssl
from collections.abc import Callable, Mapping
from typing import Final

from sealserve.client.http2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    LARGEST_FRAME,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    literal,
)

_TO_CONFIRM: Final = (SETTINGS, PING)
_STREAM: Final = 1
_MOST_FRAMES: Final = 1024
_MESSAGE_HEADER: Final = 5
_NO_PUSH: Final = b"\x00\x02\x00\x00\x00\x00"  # SETTINGS_ENABLE_PUSH = 0
_NO_TABLE: Final = b"\x00\x01\x00\x00\x00\x00"  # SETTINGS_HEADER_TABLE_SIZE = 0: the peer repeats names in full
_STATUS: Final = b"grpc-status"
_VIOLATION: Final = 3
"""The status for an answer that breaks the protocol: INVALID_ARGUMENT, which is final."""


class ClosedAtOnceError(Exception):
    """The peer closed the connection before its first byte, as gRPC servers do without a client certificate."""


class CallRefusedError(Exception):
    """The peer answered without a message.

    Args:
        reason: What the peer did.
        status: gRPC's status, or `None` if it is unknown.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def unary_call(
    stream: ssl.SSLSocket,
    method: str,
    message: bytes,
    *,
    authority: str,
    limit: int,
    timeout: Callable[[], float],
) -> bytes:
    """Send a message, and return the message in the answer. The connection cannot be used for another call.

    Args:
        stream: A connection on which nothing was sent.
        method: ``/package.Service/Method``.
        message: The message, shorter than 16 KiB.
        authority: The service's name.
        limit: Maximum size of the answer in bytes, at most 65,530.
        timeout: Returns the seconds that are left, or raises `TimeoutError`.

    Raises:
        ClosedAtOnceError: The peer closed the connection before its first byte.
        CallRefusedError: The peer answered with a status, or violated the protocol.
        OSError: The connection was lost, or the time is over.
    """
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": method,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    prefixed = b"\0" + len(message).to_bytes(4, "big") + message
    stream.settimeout(timeout())
    stream.sendall(
        PREFACE
        + frame(SETTINGS, 0, 0, _NO_TABLE + _NO_PUSH)
        + frame(HEADERS, END_HEADERS, _STREAM, _block(fields))
        + frame(DATA, END_STREAM, _STREAM, prefixed)
    )
    try:
        first = stream.recv(1)  # an HTTP/2 server always sends its settings first
    except (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise ClosedAtOnceError from error
    if not first:
        raise ClosedAtOnceError
    answer = _Answer(limit)
    for _ in range(_MOST_FRAMES):
        kind, flags, number, payload = _read_frame(stream, timeout, first)
        first = b""
        if kind in _TO_CONFIRM and not flags & ACK:
            stream.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == GOAWAY:
            raise CallRefusedError("it closed the connection")
        elif number == _STREAM and (found := answer.receive(kind, flags, payload)) is not None:
            return found
    raise CallRefusedError("it sent too many frames", _VIOLATION)


class _Answer:
    """The answer as far as it was received."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = bytearray()

    def receive(self, kind: int, flags: int, payload: bytes) -> bytes | None:
        """Process a frame of the call, and return the message if it is complete."""
        if kind == RST_STREAM:
            raise CallRefusedError("it canceled the call")
        if kind == HEADERS and flags & END_STREAM:
            status = _status(payload)
            raise CallRefusedError("it rejected the call" if status is None else _meaning(status), status)
        if kind != DATA:
            return None
        self._received += _without_padding(flags, payload)
        if len(self._received) > self._limit + _MESSAGE_HEADER:
            raise CallRefusedError("its answer is too large", _VIOLATION)
        found = _message(self._received)
        if found is None and flags & END_STREAM:
            raise CallRefusedError("its answer is incomplete", _VIOLATION)
        return found


def _read_frame(stream: ssl.SSLSocket, timeout: Callable[[], float], begin: bytes) -> tuple[int, int, int, bytes]:
    header = begin + _read(stream, FRAME_HEADER - len(begin), timeout)
    length = int.from_bytes(header[:3], "big")
    if length > LARGEST_FRAME:
        raise CallRefusedError("it does not use HTTP/2, or sent a frame that is too large", _VIOLATION)
    number = int.from_bytes(header[5:9], "big") & 0x7FFFFFFF
    return header[3], header[4], number, _read(stream, length, timeout)


def _read(stream: ssl.SSLSocket, size: int, timeout: Callable[[], float]) -> bytes:
    content = bytearray()
    while len(content) < size:
        stream.settimeout(timeout())
        if not (part := stream.recv(size - len(content))):
            raise ConnectionResetError("the peer closed the connection")
        content += part
    return bytes(content)


def _without_padding(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise CallRefusedError("it violated HTTP/2", _VIOLATION)
    return payload[1 : len(payload) - payload[0]]


def _message(received: bytearray) -> bytes | None:
    """Return the message if it is complete."""
    if len(received) < _MESSAGE_HEADER:
        return None
    if received[0]:
        raise CallRefusedError("it compressed its answer", _VIOLATION)
    size = int.from_bytes(received[1:_MESSAGE_HEADER], "big")
    if len(received) < _MESSAGE_HEADER + size:
        return None
    return bytes(received[_MESSAGE_HEADER : _MESSAGE_HEADER + size])


def _status(block: bytes) -> int | None:
    """Return gRPC's status if the headers contain it as text. It only selects the error message."""
    before, found, after = block.partition(_STATUS)
    if not found or not before or not after:
        return None
    length, value = after[0], after[1:]
    digits = value[:length]
    return int(digits) if 0 < length <= 2 and digits.isdigit() else None  # noqa: PLR2004  # statuses are 0 to 16


_MEANINGS: Final[Mapping[int, str]] = {
    8: "it received too many requests",
    12: "it does not implement the method GetEvidence",
    14: "it is not available",
}


def _meaning(status: int) -> str:
    return _MEANINGS.get(status, f"it rejected the call with gRPC status {status}")


def _block(fields: Mapping[str, str]) -> bytes:
    """Return headers without compression."""
    return b"".join(literal(name, value) for name, value in fields.items())
