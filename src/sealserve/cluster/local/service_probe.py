"""Ask a model server for its certificate: whether it answers, and when the certificate that users see ends."""

import contextlib
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered.

    Args:
        answers: Whether it answered at all.
        certificate_end: When the certificate that it presented ends, UTC; None where it presented none.
    """

    answers: bool
    certificate_end: datetime | None = None


def probe(address: str, port: int, server_name: str) -> Answer:
    """Begin a TLS connection with a server, and end it. No request is sent, and no client certificate is shown.

    The certificate is not verified: the answer is information about the server, and nothing is entrusted to it. With
    two-way TLS 1.3, a server presents its certificate before it asks for the client's.

    Args:
        address: Where the server listens.
        port: Its port.
        server_name: The name that is asked for.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((address, port), timeout=_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=server_name) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
    except ssl.SSLEOFError:
        return Answer(answers=False)  # the server has ended in the middle of the handshake
    except ssl.SSLError:
        return Answer(answers=True)  # an alert is an answer: it may want a client's certificate first
    except (OSError, ValueError):
        return Answer(answers=False)
    with contextlib.suppress(ValueError, TypeError):
        presented = x509.load_der_x509_certificate(certificate or b"")
        return Answer(answers=True, certificate_end=presented.not_valid_after_utc)
    return Answer(answers=True)
