"""Who the client talks to and who it is: an address, a service name, a certificate authority, a client certificate."""

import ipaddress
import re
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sealserve.errors import InputError, VerificationError
from sealserve.secret import SecretBytes

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_MAX_PORT = 65535
_KEY_HINT = "Use the key file that `sealserve certs` wrote."


class TargetError(InputError):
    """An address is not of the form host:port."""

    code = "client.target"


class CredentialsError(InputError):
    """A certificate or key that was given cannot be used."""

    code = "client.credentials"


class TlsError(VerificationError):
    """The two sides do not agree on a TLS connection."""

    code = "client.tls"


class ClientCertificateExpiredError(TlsError):
    """The client's own certificate is outside its dates."""

    code = "client.tls-client-certificate-expired"


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
        TargetError: It is none of these.
    """
    host, separator, port = target.rpartition(":")
    if separator and port.isascii() and port.isdecimal() and 0 < int(port) <= _MAX_PORT:
        if host.startswith("[") and host.endswith("]"):
            try:
                return Endpoint(str(ipaddress.IPv6Address(host[1:-1])), int(port))
            except ValueError:
                pass
        elif _HOST.fullmatch(host):
            return Endpoint(host, int(port))
    raise TargetError(
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
        CredentialsError: Something of it is no PEM, or the key is not the certificate's.
    """

    server_name: str
    ca: bytes = field(repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: SecretBytes | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.server_name):
            raise CredentialsError(f"{self.server_name!r} is not a service name.", hint="Give a DNS name.")
        _certificates(self.ca, "CA certificate")
        if (self.certificate is None) != (self.key is None):
            given, absent = ("key", "certificate") if self.certificate is None else ("certificate", "key")
            raise CredentialsError(f"A client {given} was given without its {absent}.", hint="Give both, or neither.")
        if (leaf := self.client_certificate()) is not None and self.private_key().public_key() != leaf.public_key():
            raise CredentialsError(
                f"The client key does not belong to the client certificate ({describe(leaf)}).",
                hint="Give the certificate and the key that were made together.",
            )

    def client_certificate(self) -> x509.Certificate | None:
        """Return the client's own certificate, without its chain."""
        return None if self.certificate is None else _certificates(self.certificate, "client certificate")[0]

    def private_key(self) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
        """Return the client's private key.

        Raises:
            CredentialsError: There is none, or it is none that gRPC's TLS can use.
        """
        try:
            key = load_pem_private_key(self.key.reveal() if self.key else b"", None)
        except (ValueError, TypeError) as error:  # TypeError: it has a passphrase
            raise CredentialsError(
                "The client key is not a private key in PEM without a passphrase.", hint=_KEY_HINT
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise CredentialsError("The client key is neither an elliptic-curve nor an RSA key.", hint=_KEY_HINT)
        return key

    def check_dates(self, now: datetime) -> None:
        """Check that the client's certificate, if there is one, is valid at ``now``.

        Raises:
            ClientCertificateExpiredError: It is not.
        """
        leaf = self.client_certificate()
        if leaf is not None and (problem := date_problem(leaf, now)):
            raise ClientCertificateExpiredError(
                f"The client certificate ({describe(leaf)}) {problem}.",
                hint="Ask the service's owner for a new one (`sealserve certs renew`), or check this machine's clock.",
            )


def date_problem(certificate: x509.Certificate, now: datetime) -> str | None:
    """Return what is wrong with a certificate's dates at ``now``, as the end of a sentence, or None."""
    moment = f"it is now {now:%Y-%m-%d %H:%M} UTC"
    if now > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC ({moment})"
    if now < certificate.not_valid_before_utc:
        return f"is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC ({moment})"
    return None


def describe(certificate: x509.Certificate) -> str:
    """Return who a certificate is for and who issued it, for a message."""
    subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    return f"{printable(subject)}, issued by {printable(issuer)}"


def printable(text: str, limit: int = 300) -> str:
    """Return text that a peer wrote, fit for a message: one line, no control characters, not too long."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= limit else clean[:limit] + "..."


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CredentialsError(
            f"The {what} is not PEM.", hint="Give a file that begins with BEGIN CERTIFICATE."
        ) from error
