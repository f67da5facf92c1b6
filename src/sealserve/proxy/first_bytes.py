"""What a client's first bytes are: HTTP/2 without TLS (gRPC), the head of an HTTP/1.1 request, or something else."""

import re
from enum import Enum
from typing import Final

from sealserve.addresses import is_ip_address, is_loopback
from sealserve.client.http2_frames import PREFACE
from sealserve.errors import SealserveError
from sealserve.proxy.codes import ProxyCode

LARGEST_HEAD: Final = 65_536
"""Maximum size in bytes of the head of the first HTTP/1.1 request."""
_END: Final = b"\r\n\r\n"
_METHOD: Final = re.compile(rb"[A-Z]{1,20}(\Z| )")
_LONGEST_METHOD: Final = 20
_TLS_HANDSHAKE: Final = 0x16


class Protocol(Enum):
    """The protocol of a client."""

    HTTP2 = "HTTP/2"
    HTTP1 = "HTTP/1.1"


def recognize(received: bytes) -> Protocol | None:
    """Return the protocol of a client, or `None` if more bytes are needed.

    For HTTP/1.1, the whole head of the first request is needed, so that its host can be checked.

    Args:
        received: All bytes that the client sent until now.

    Raises:
        InputError: `proxy.first-bytes`: The bytes are of another protocol, or the head is too large.
    """
    if received.startswith(PREFACE):
        return Protocol.HTTP2
    if PREFACE.startswith(received):
        return None
    if received[0] == _TLS_HANDSHAKE:
        raise ProxyCode.FIRST_BYTES.error(
            "The client uses TLS: expected HTTP without TLS.",
            hint="Connect to the proxy with http:// or an insecure gRPC channel. The proxy itself uses TLS.",
        )
    if _METHOD.match(received[: _LONGEST_METHOD + 1]) is None:
        raise ProxyCode.FIRST_BYTES.error("The client sent neither HTTP/2 nor HTTP/1.1.")
    if _END in received[: LARGEST_HEAD + len(_END)]:
        return Protocol.HTTP1
    if len(received) > LARGEST_HEAD:
        raise ProxyCode.FIRST_BYTES.error(f"The head of the request is too large: expected {LARGEST_HEAD} bytes.")
    return None


def check_host(received: bytes, *, server_name: str) -> None:
    """Check that an HTTP/1.1 request names this machine or the service, and does not come from a web page elsewhere.

    A web page can make a browser send requests to this machine. It can also give its own name the address of this
    machine (DNS rebinding), and then read the answers. Such requests name another host or origin.

    Args:
        received: The bytes of the client, with a complete head.
        server_name: The name of the service, which is also accepted.

    Raises:
        VerificationError: `proxy.host`: The request names another host.
    """
    for line in received.partition(_END)[0].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if (field := name.strip().lower()) not in {b"host", b"origin"}:
            continue
        host = _host(value.decode("latin-1").strip(), origin=field == b"origin")
        # No page can give its name to an IP address, so each address as the host is this machine's. But a page can
        # come from any address, so the address of an origin must be a loopback address.
        is_here = is_loopback(host) if field == b"origin" else is_ip_address(host)
        if host not in {"localhost", server_name.lower()} and not is_here:
            raise _another(field.decode(), value.decode("latin-1").strip())


def _host(value: str, *, origin: bool) -> str:
    """Return the host of ``host:port``, or of an origin such as ``http://host:port``."""
    authority = value.rpartition("://")[2] if origin else value
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower()


def _another(field: str, value: str) -> SealserveError:
    shown = "".join(letter if letter.isprintable() else "?" for letter in value[:100])
    return ProxyCode.HOST.error(
        f"The request was refused: expected the {field} localhost, an IP address or the service's name, got {shown!r}.",
        hint="Use the address of the proxy in the URL. Requests from web pages are refused.",
    )
