"""HTTP/2 as bytes, for peers that send what no library would."""

from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def hello(*, window: int = 65535) -> bytes:
    """Return a client's preface, and SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, sections 3.4 and 6.5.2)."""
    return PREFACE + frame(SETTINGS, 0, 0, b"\x00\x04" + window.to_bytes(4, "big"))


def request(path: str, message: bytes = b"", *, stream: int = 1, **headers: str) -> bytes:
    """Return a gRPC request.

    Args:
        path: The method.
        message: The message, as it is.
        stream: The stream's number.
        headers: More headers, underscores for hyphens.
    """
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **more,
    }
    prefixed = b"\0" + len(message).to_bytes(4, "big") + message
    return frame(HEADERS, END_HEADERS, stream, _block(fields)) + frame(DATA, END_STREAM, stream, prefixed)


def _block(fields: Mapping[str, str]) -> bytes:
    """Return headers without compression (RFC 7541, section 6.2.2); each is shorter than 127 bytes."""
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
