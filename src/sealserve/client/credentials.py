"""Who the client talks to and who it is: an address, a service name, a certificate authority, a client certificate."""

import ipaddress
import logging
import re
from dataclasses import dataclass, field
from datetime import datetime

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sealserve.client.codes import ClientCode
from sealserve.errors import VerificationError
from sealserve.pki.certificate import check_key, parse_chain
from sealserve.pki.tls_material import (
    check_chain,
    check_issuers,
    check_tls_key,
    ordered_authorities,
    ordered_chain,
)
from sealserve.secret import SecretBytes
from sealserve.tcp_ports import LARGEST_PORT

logger = logging.getLogger(__name__)

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"  # RFC 1035, 2.3.4; Python's resolver takes no longer one
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_CLIENT_CERTIFICATE = "The client certificate"
_AUTHORITY = "The CA certificate"


class TlsError(VerificationError):
    """The two sides do not agree on a TLS connection."""

    code = "client.tls"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(target: str) -> Endpoint:
    """Return the address that ``target`` names: ``host:port``, ``192.0.2.1:port`` or ``[2001:db8::1]:port``.

    Raises:
        InputError: `client.target`: It is none of these.
    """
    host, separator, port = target.rpartition(":")
    if separator and port.isascii() and port.isdecimal() and 0 < int(port) <= LARGEST_PORT:
        if host.startswith("[") and host.endswith("]"):
            try:
                return Endpoint(str(ipaddress.IPv6Address(host[1:-1])), int(port))
            except ValueError:
                pass
        elif _HOST.fullmatch(host):
            return Endpoint(host, int(port))
    raise ClientCode.TARGET.error(
        f"{target!r} is not an address of the form host:port.",
        hint="Examples: 127.0.0.1:8500, service.example.com:443, [::1]:8500.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What TLS needs on the client's side.

    Args:
        server_name: The name that must be in the service's certificate; it is also sent as SNI, whatever the address.
        ca: The certificate of the authority that signs the service's certificates, PEM; the system's are not used.
        certificate: With two-way TLS, the client's certificate and its chain, PEM.
        key: With two-way TLS, the client's private key, PEM without a passphrase.

    Raises:
        InputError: `client.credentials`: The name is none, one of certificate and key is missing, or the key is of no
            usable kind.
        InputError: `certificate.unreadable`, `certificate.key-unreadable`: Something of it is no PEM.
        InputError: `certificate.key-unreadable`, `certificate.unsupported`: A TLS library does not support the kind of
            a key.
        KeyMismatchError: The key is not the certificate's.
    """

    server_name: str
    ca: bytes = field(repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: SecretBytes | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.server_name):
            raise ClientCode.CREDENTIALS.error(f"{self.server_name!r} is not a service name.", hint="Give a DNS name.")
        check_issuers(parse_chain(self.ca, source=_AUTHORITY), source=_AUTHORITY)
        if (self.certificate is None) != (self.key is None):
            given, absent = ("key", "certificate") if self.certificate is None else ("certificate", "key")
            raise ClientCode.CREDENTIALS.error(
                f"A client {given} was given without its {absent}.", hint="Give both, or neither."
            )
        if self.certificate is not None and self.key is not None:
            check_key(self.key, self.certificate, source=_CLIENT_CERTIFICATE)
            self.private_key()
            check_tls_key(self.key, self.certificate, source=_CLIENT_CERTIFICATE)
            check_issuers(self.chain()[1:], source=_CLIENT_CERTIFICATE)

    def chain(self) -> tuple[x509.Certificate, ...]:
        """Return the client's certificate and its issuers; nothing with one-way TLS."""
        return () if self.certificate is None else parse_chain(self.certificate, source=_CLIENT_CERTIFICATE)

    def private_key(self) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
        """Return the client's private key.

        Raises:
            InputError: `client.credentials`: It is none that gRPC's TLS can use.
        """
        key = None if self.key is None else load_pem_private_key(self.key.reveal(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ClientCode.CREDENTIALS.error(
                "The client key is neither an elliptic-curve nor an RSA key.",
                hint="Use the key file that `sealserve certs` wrote.",
            )
        return key

    def check_dates(self, now: datetime) -> None:
        """Check that the client's certificate, if there is one, is valid at ``now``.

        Another certificate of its chain that is outside its dates is logged: the service may not need it.

        Raises:
            VerificationError: `certificate.expired`: It is not, or no issuer of it in the chain is.
            CertificateNotYetValidError: It is not, or no issuer of it in the chain is.
        """
        if self.certificate is not None:
            for outside in check_chain(self.certificate, now, source=_CLIENT_CERTIFICATE):
                logger.warning("the client's chain has a certificate that is not valid now: %s", outside)

    def for_grpc(self, now: datetime) -> grpc.ChannelCredentials:
        """Return gRPC's form of the credentials, with the certificates in the order in which each peer finds a path."""
        return grpc.ssl_channel_credentials(
            ordered_authorities(self.ca, now),
            None if self.key is None else self.key.reveal(),
            None if self.certificate is None else ordered_chain(self.certificate, now),
        )


def describe(certificate: x509.Certificate) -> str:
    """Return who a certificate is for and who issued it, for a message."""
    try:
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    except ValueError:  # a stranger's may be malformed
        return "of names that cannot be read"
    return f"{printable(subject)}, issued by {printable(issuer)}"


def printable(text: str, limit: int = 300) -> str:
    """Return text that a peer wrote, fit for a message: one line, no control characters, not too long.

    A line break, with the spaces around it, becomes one space.
    """
    line = " ".join(filter(None, (part.strip() for part in text.splitlines())))
    clean = "".join(character if character.isprintable() else "?" for character in line)
    return clean if len(clean) <= limit else clean[:limit] + "..."
