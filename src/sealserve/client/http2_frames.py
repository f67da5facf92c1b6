"""Frames and header fields of HTTP/2, as bytes: for a single call, and for a proxy that refuses calls.

Source: RFC 9113 (frames, sections 3.4, 4.1 and 6); RFC 7541 (HPACK, sections 5 and 6.2.2).
"""

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of every client."""

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7
"""Kinds of frames."""
ACK, END_STREAM, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
"""Flags of frames."""

FRAME_HEADER: Final = 9
"""Size of a frame's header in bytes."""
LARGEST_FRAME: Final = 16_384
"""Maximum size in bytes of a frame's payload: the default of SETTINGS_MAX_FRAME_SIZE."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def literal(name: str, value: str) -> bytes:
    """Return a literal field without indexing, with a new name and without Huffman coding (RFC 7541 section 6.2.2)."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    """Return a string literal: a length of 7 bits with continuation (RFC 7541 section 5.1), and the bytes."""
    content, prefix = text.encode("ascii"), 0x7F
    if (left := len(content)) < prefix:
        return bytes((left,)) + content
    size = bytearray((prefix,))
    left -= prefix
    while left > prefix:  # 7 bits in each further byte
        size.append(left & prefix | 0x80)
        left >>= 7
    size.append(left)
    return bytes(size) + content
