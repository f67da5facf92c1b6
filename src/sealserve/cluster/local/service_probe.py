"""Checks whether a model server answers, and when the certificate that it presents to users expires."""

import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from sealserve.clock import issue_time
from sealserve.cluster.presented_certificate import PresentedCertificate

_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a probe.

    Args:
        answers: Whether the server answered at all.
        certificate: The certificate that it presented. None if it presented none.
    """

    answers: bool
    certificate: PresentedCertificate | None = None


def probe(address: str, port: int, server_name: str) -> Answer:
    """Start a TLS handshake with a server, and close the connection. No request or client certificate is sent.

    The certificate is not verified, because the result is only information and nothing confidential is sent. With
    two-way TLS 1.3, a server presents its certificate before it requests the client's.

    Args:
        address: The server's IP address.
        port: Its port.
        server_name: The server name to request.
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
        return Answer(answers=False)  # the server ended during the handshake
    except ssl.SSLError:
        return Answer(answers=True)  # an alert is an answer: the server may require a client certificate first
    except (OSError, ValueError):
        return Answer(answers=False)
    with contextlib.suppress(ValueError, TypeError):
        presented = x509.load_der_x509_certificate(certificate or b"")
        ends = presented.not_valid_after_utc
        issued = issue_time(presented.not_valid_before_utc, ends)
        return Answer(answers=True, certificate=PresentedCertificate(issued=issued, ends=ends))
    return Answer(answers=True)
