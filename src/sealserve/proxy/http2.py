"""HTTP/2 for a proxy that must refuse: it answers each call of a gRPC client with a status, and forwards nothing.

Closing the connection would give the client only "Socket closed". The answers need no state of HPACK, because they use
only literal fields, and the fields of the requests are not decoded.

Source: RFC 9113 (frames, section 4.1 and 6), RFC 7541 (HPACK, sections 5 and 6.2.2), gRPC over HTTP/2 (Trailers-Only).
"""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from sealserve.proxy.first_bytes import PREFACE

UNAVAILABLE: Final = 14
"""gRPC's status for a peer that is not reachable. Clients may repeat the call."""
FAILED_PRECONDITION: Final = 9
"""gRPC's status for a call that must not be repeated before something else changes."""

_HEADER_SIZE: Final = 9
_LARGEST_FRAME: Final = 16_384  # the default of SETTINGS_MAX_FRAME_SIZE, and the server's settings do not change it
_HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0x1, 0x3, 0x4, 0x6, 0x7
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_PING_SIZE: Final = 8
_STATUS_200: Final = b"\x88"  # entry 8 of HPACK's static table
_LONGEST_MESSAGE: Final = 2000
_MOST_ANSWERS: Final = 1000


class MalformedError(ValueError):
    """The client does not speak HTTP/2."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


@dataclass(slots=True, kw_only=True)
class Refusal:
    """A server that refuses each call. Give it all bytes of the client, beginning with the preface.

    Args:
        status: gRPC's status for all calls.
        message: The reason.
    """

    status: int
    message: str
    answered: int = 0
    last_stream: int = 0
    _waiting: bytearray = field(default_factory=bytearray, repr=False)
    _begun: bool = False

    def receive(self, content: bytes) -> bytes:
        """Process bytes of the client, and return bytes for it.

        Raises:
            MalformedError: The bytes are not HTTP/2, or the client sent too many calls.
        """
        self._waiting += content
        answer = bytearray()
        if not self._begun:
            if len(self._waiting) < len(PREFACE):
                return b""
            if not self._waiting.startswith(PREFACE):
                raise MalformedError("no preface")
            del self._waiting[: len(PREFACE)]
            self._begun = True
            answer += frame(_SETTINGS, 0, 0)
        while (size := self._complete()) is not None:
            header, payload = bytes(self._waiting[:_HEADER_SIZE]), bytes(self._waiting[_HEADER_SIZE:size])
            del self._waiting[:size]
            answer += self._answer(header[3], header[4], int.from_bytes(header[5:9]) & 0x7FFF_FFFF, payload)
        return bytes(answer)

    def goodbye(self) -> bytes:
        """Return the last frame: no call above the last answered call was processed."""
        return frame(_GOAWAY, 0, 0, self.last_stream.to_bytes(4) + bytes(4))

    def _complete(self) -> int | None:
        """Return the size of the first frame if it has arrived completely."""
        if len(self._waiting) < _HEADER_SIZE:
            return None
        length = int.from_bytes(self._waiting[:3])
        if length > _LARGEST_FRAME:
            raise MalformedError("frame too large")
        return _HEADER_SIZE + length if len(self._waiting) >= _HEADER_SIZE + length else None

    def _answer(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == _SETTINGS and not flags & _ACK:
            return frame(_SETTINGS, _ACK, 0)
        if kind == _PING and not flags & _ACK and len(payload) == _PING_SIZE:
            return frame(_PING, _ACK, 0, payload)
        if kind != _HEADERS or stream <= self.last_stream:  # trailers of a call that was already refused
            return b""
        self.answered += 1
        if self.answered > _MOST_ANSWERS:
            raise MalformedError("too many calls")
        self.last_stream = stream
        refused = frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, self._fields())
        # The client does not have to send the rest of its message.
        return refused if flags & _END_STREAM else refused + frame(_RST_STREAM, 0, stream, bytes(4))

    def _fields(self) -> bytes:
        message = quote(self.message[:_LONGEST_MESSAGE], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
        return (
            _STATUS_200
            + _literal("content-type", "application/grpc")
            + _literal("grpc-status", str(self.status))
            + _literal("grpc-message", message)
        )


def _literal(name: str, value: str) -> bytes:
    """Return a literal field without indexing, with a new name and without Huffman coding (RFC 7541 section 6.2.2)."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    content, prefix = text.encode(), 0x7F
    if (left := len(content)) < prefix:
        return bytes((left,)) + content
    size = bytearray((prefix,))
    left -= prefix
    while left > prefix:  # 7 bits in each further byte
        size.append(left & prefix | 0x80)
        left >>= 7
    size.append(left)
    return bytes(size) + content
