"""HTTP/2 for a proxy that must refuse: it answers each call of a gRPC client with a status, and forwards nothing.

Closing the connection would give the client only "Socket closed". The answers need no state of HPACK, because they use
only literal fields, and the fields of the requests are not decoded.

Source: RFC 9113 (frames, section 4.1 and 6), RFC 7541 (HPACK, sections 5 and 6.2.2), gRPC over HTTP/2 (Trailers-Only).
"""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from sealserve.client.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    LARGEST_FRAME,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    literal,
)

UNAVAILABLE: Final = 14
"""gRPC's status for a peer that is not reachable. Clients may repeat the call."""
FAILED_PRECONDITION: Final = 9
"""gRPC's status for a call that must not be repeated before something else changes."""

_PING_SIZE: Final = 8
_STATUS_200: Final = b"\x88"  # entry 8 of HPACK's static table
_LONGEST_MESSAGE: Final = 2000
_MOST_ANSWERS: Final = 1000


class MalformedError(ValueError):
    """The client does not speak HTTP/2."""


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
            answer += frame(SETTINGS, 0, 0)
        while (size := self._complete()) is not None:
            header, payload = bytes(self._waiting[:FRAME_HEADER]), bytes(self._waiting[FRAME_HEADER:size])
            del self._waiting[:size]
            answer += self._answer(header[3], header[4], int.from_bytes(header[5:9]) & 0x7FFF_FFFF, payload)
        return bytes(answer)

    def goodbye(self) -> bytes:
        """Return the last frame: no call above the last answered call was processed."""
        return frame(GOAWAY, 0, 0, self.last_stream.to_bytes(4) + bytes(4))

    def _complete(self) -> int | None:
        """Return the size of the first frame if it has arrived completely."""
        if len(self._waiting) < FRAME_HEADER:
            return None
        length = int.from_bytes(self._waiting[:3])
        if length > LARGEST_FRAME:
            raise MalformedError("frame too large")
        return FRAME_HEADER + length if len(self._waiting) >= FRAME_HEADER + length else None

    def _answer(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == SETTINGS and not flags & ACK:
            return frame(SETTINGS, ACK, 0)
        if kind == PING and not flags & ACK and len(payload) == _PING_SIZE:
            return frame(PING, ACK, 0, payload)
        if kind != HEADERS or stream <= self.last_stream:  # trailers of a call that was already refused
            return b""
        self.answered += 1
        if self.answered > _MOST_ANSWERS:
            raise MalformedError("too many calls")
        self.last_stream = stream
        refused = frame(HEADERS, END_STREAM | END_HEADERS, stream, self._fields())
        # The client does not have to send the rest of its message.
        return refused if flags & END_STREAM else refused + frame(RST_STREAM, 0, stream, bytes(4))

    def _fields(self) -> bytes:
        message = quote(self.message[:_LONGEST_MESSAGE], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
        return (
            _STATUS_200
            + literal("content-type", "application/grpc")
            + literal("grpc-status", str(self.status))
            + literal("grpc-message", message)
        )
