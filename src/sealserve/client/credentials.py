"""Addresses and credentials of a connection: service name, certificate authority, client certificate."""

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

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"  # RFC 1035, 2.3.4; also the limit of Python's resolver
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_CLIENT_CERTIFICATE = "The client certificate"
_AUTHORITY = "The CA certificate"


class TlsError(VerificationError):
    """The TLS handshake between client and service failed."""

    code = "client.tls"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(target: str) -> Endpoint:
    """Parse an address: ``host:port``, ``192.0.2.1:port`` or ``[2001:db8::1]:port``.

    Raises:
        InputError: `client.target`: The text does not have one of these forms.
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
        f"The address is invalid: expected HOST:PORT, got {target!r}.",
        hint="Give HOST:PORT, such as 127.0.0.1:8500, service.example.com:443 or [::1]:8500.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The TLS credentials on the client's side.

    Args:
        server_name: The name that must be in the service's certificate. It is also sent as SNI.
        ca: The certificate of the authority that signs the service's certificates, PEM. The system's certificate
            authorities are not used.
        certificate: With two-way TLS, the client's certificate and its chain, PEM.
        key: With two-way TLS, the client's private key, PEM without a passphrase.

    Raises:
        InputError: `client.credentials`: The name is invalid, only one of certificate and key is given, or the kind of
            the key is not supported.
        InputError: `certificate.unreadable`, `certificate.key-unreadable`: A certificate or the key is not valid PEM.
        InputError: `certificate.key-unreadable`, `certificate.unsupported`: A TLS library does not support the kind of
            a key.
        KeyMismatchError: The key does not belong to the certificate.
    """

    server_name: str
    ca: bytes = field(repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: SecretBytes | None = None

    def __post_init__(self) -> None:
        check_client(self.server_name, self.certificate, self.key)
        check_issuers(parse_chain(self.ca, source=_AUTHORITY), source=_AUTHORITY)

    def chain(self) -> tuple[x509.Certificate, ...]:
        """Return the client's certificate and its issuers; empty with one-way TLS."""
        return () if self.certificate is None else parse_chain(self.certificate, source=_CLIENT_CERTIFICATE)

    def private_key(self) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
        """Return the client's private key.

        Raises:
            InputError: `client.credentials`: gRPC's TLS does not support the kind of the key.
        """
        return _private_key(self.key)

    def check_dates(self, now: datetime) -> None:
        """Check that the client's certificate, if one was given, is valid at ``now``.

        Other certificates of the chain that are not valid are only logged, because the service may not need them.

        Raises:
            VerificationError: `certificate.expired`: The certificate, or every issuer of it in the chain, has expired.
            CertificateNotYetValidError: The certificate, or every issuer of it in the chain, is not valid yet.
        """
        if self.certificate is not None:
            for outside in check_chain(self.certificate, now, source=_CLIENT_CERTIFICATE):
                logger.warning("a certificate in the client's chain is not valid now: %s", outside)

    def for_grpc(self, now: datetime) -> grpc.ChannelCredentials:
        """Return the credentials for gRPC, with certificates in an order in which every TLS library finds a path."""
        return grpc.ssl_channel_credentials(
            ordered_authorities(self.ca, now),
            None if self.key is None else self.key.reveal(),
            None if self.certificate is None else ordered_chain(self.certificate, now),
        )


def check_client(server_name: str, certificate: bytes | None, key: SecretBytes | None) -> None:
    """Check the service's name, and the client's certificate and key for two-way TLS.

    Raises:
        SealserveError: As `Credentials`.
    """
    if not _HOST.fullmatch(server_name):
        raise ClientCode.CREDENTIALS.error(
            f"The service name is invalid: expected a DNS name, got {server_name!r}.",
            hint="Give the service's name from its owner's sealserve.toml (service.name).",
        )
    if (certificate is None) != (key is None):
        given, absent = ("key", "certificate") if certificate is None else ("certificate", "key")
        raise ClientCode.CREDENTIALS.error(
            f"The client's credentials are incomplete: got a {given}, but not its {absent}.",
            hint="Give both the certificate and the key, or neither.",
        )
    if certificate is not None and key is not None:
        check_key(key, certificate, source=_CLIENT_CERTIFICATE)
        _private_key(key)
        check_tls_key(key, certificate, source=_CLIENT_CERTIFICATE)
        check_issuers(parse_chain(certificate, source=_CLIENT_CERTIFICATE)[1:], source=_CLIENT_CERTIFICATE)


def _private_key(key: SecretBytes | None) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    found = None if key is None else load_pem_private_key(key.reveal(), None)
    if not isinstance(found, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ClientCode.CREDENTIALS.error(
            "The client's private key is of an unsupported kind: expected an elliptic-curve or RSA key.",
            hint="Use the key from the client bundle, or the file that `sealserve certs` wrote.",
        )
    return found


def describe(certificate: x509.Certificate) -> str:
    """Return subject and issuer of a certificate, for a message."""
    try:
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    except ValueError:  # the certificate of an unknown server may be malformed
        return "with unreadable names"
    return f"{printable(subject)}, issued by {printable(issuer)}"


def printable(text: str, limit: int = 300) -> str:
    """Return a peer's text in a form that is safe in a message.

    The result is one line without control characters. A line break, with the spaces around it, becomes one space.

    Args:
        text: The text.
        limit: Maximum number of characters. A longer text is cut, and ends in ``...``.
    """
    line = " ".join(filter(None, (part.strip() for part in text.splitlines())))
    clean = "".join(character if character.isprintable() else "?" for character in line)
    return clean if len(clean) <= limit else clean[:limit] + "..."
