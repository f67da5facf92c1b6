"""PEM certificates and private keys: their content, their validity, and whether a key matches a certificate."""

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealserve.atomic_file import PRIVATE, replacing
from sealserve.clock import CLOCK_SKEW
from sealserve.errors import InputError, VerificationError
from sealserve.pki.codes import PkiCode
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.secret import SecretBytes
from sealserve.x509_errors import X509_ERRORS

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

SIMULATED = "simulated"
"""The word in the names of all certificates that the deployment of a simulated platform issues."""

LARGEST_KEY = 16 * 1024
"""The maximum length in bytes of a private key in PEM.

Loading a key validates it, which takes time cubic in its length: a malicious RSA key of 4 MiB would take weeks.
"""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_PURPOSES = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}


class CertificateMissingError(InputError):
    """The file of a certificate or private key does not exist."""

    code = "certificate.missing"


class KeyMismatchError(InputError):
    """The private key does not match the certificate."""

    code = "certificate.key-mismatch"


class CertificateNotYetValidError(VerificationError):
    """The certificate is not valid yet, or this machine's clock is wrong."""

    code = "certificate.not-yet-valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInfo:
    """The content of a certificate.

    Args:
        subject: The subject, as RFC 4514 text.
        issuer: The issuer, as RFC 4514 text.
        serial: The serial number, hex.
        not_before: The start of the validity period, UTC.
        not_after: The end of the validity period, UTC.
        names: The DNS names in the certificate.
        addresses: The IP addresses in the certificate.
        permitted: The name constraints of a CA: the DNS names and networks that it may sign for.
        purposes: ``server``, ``client``, or an object identifier.
        authority: Whether the certificate may sign other certificates.
        key: The type of the public key, such as ``secp256r1`` or ``RSA-3072``.
        fingerprint: SHA-256 of the DER, hex.
    """

    subject: str
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]
    addresses: tuple[IPAddress, ...]
    permitted: tuple[str, ...]
    purposes: tuple[str, ...]
    authority: bool
    key: str
    fingerprint: str

    @property
    def simulated(self) -> bool:
        """Whether the certificate belongs to the deployment of a simulated platform, according to its names."""
        return SIMULATED in self.subject or SIMULATED in self.issuer


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedKey:
    """A private key and its certificate chain.

    Args:
        key_pem: The private key, PKCS #8 PEM.
        chain_pem: The certificate, followed by the certificates that a peer needs to reach its trusted CA, PEM.
    """

    key_pem: SecretBytes
    chain_pem: bytes

    @classmethod
    def read(cls, *, certificate: Path, key: Path, missing: str = "Check the path.") -> Self:
        """Read the files that `write` wrote.

        Args:
            certificate: The file with the certificate chain.
            key: The file with the private key.
            missing: The hint if one of the files does not exist.

        Raises:
            CertificateMissingError: One of the files does not exist.
            InputError: `certificate.unreadable` if ``certificate`` does not contain a certificate.
            InputError: `certificate.key-unreadable` if ``key`` does not contain a private key.
            KeyMismatchError: The private key does not match the certificate.
        """
        pair = cls(key_pem=SecretBytes(_read(key, missing)), chain_pem=_read(certificate, missing))
        try:
            check_key(pair.key_pem, pair.chain_pem, source=str(certificate))
        except KeyMismatchError as error:
            raise KeyMismatchError(
                error.message, hint="Run `sealserve certs renew` to issue a new key and certificate that match."
            ) from error
        return pair

    def write(self, *, certificate: Path, key: Path) -> None:
        """Write both files and replace existing ones. The key is readable only by its owner.

        If one file cannot be written, neither is replaced. A crash between the two renames leaves a new key beside an
        old or missing certificate. `read` rejects this state. The broker's container continues to read files that root
        replaces, because they keep their owner.
        """
        with (
            replacing(certificate, keep_owner=True) as public,
            replacing(key, mode=PRIVATE, keep_owner=True) as private,
        ):
            public.write(self.chain_pem)
            private.write(self.key_pem.reveal())


def parse_chain(pem: bytes, *, source: str = "the certificate") -> tuple[x509.Certificate, ...]:
    """Parse one or more PEM certificates.

    Raises:
        InputError: `certificate.unreadable` if ``pem`` contains no certificate or a damaged one.
    """
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
        for certificate in certificates:  # decode the names now, because the library decodes them only on access
            certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    except X509_ERRORS as error:
        raise PkiCode.CERTIFICATE_UNREADABLE.error(f"{source} does not contain a readable PEM certificate.") from error
    return certificates


def only_certificates(pem: bytes, *, source: str = "the certificate") -> bytes:
    """Return the certificates of ``pem`` without anything else, such as a private key in the same file.

    Raises:
        InputError: `certificate.unreadable` if ``pem`` contains no certificate or a damaged one.
    """
    return b"".join(found.public_bytes(serialization.Encoding.PEM) for found in parse_chain(pem, source=source))


def check_certificate(pem: bytes, now: datetime, *, source: str = "the certificate") -> None:
    """Check that each certificate of ``pem`` is valid at ``now``.

    Args:
        pem: One or more certificates.
        now: The time of the check, with a time zone.
        source: The certificate's description in errors: a file, or the certificate's owner.

    Raises:
        InputError: `certificate.unreadable` if ``pem`` does not contain a PEM certificate.
        VerificationError: `certificate.expired` if a certificate has expired at ``now``.
        CertificateNotYetValidError: A certificate's validity begins more than `CLOCK_SKEW` after ``now``.
    """
    for certificate in parse_chain(pem, source=source):
        check_dates(certificate, now, source=source)


def check_dates(certificate: x509.Certificate, now: datetime, *, source: str) -> None:
    """Check that one certificate is valid at ``now``. See `check_certificate`."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    subject = certificate.subject.rfc4514_string()
    if now > last:
        raise PkiCode.CERTIFICATE_EXPIRED.error(
            f"{source} ({subject}) expired on {last:%Y-%m-%d %H:%M} UTC (the time is {now:%Y-%m-%d %H:%M} UTC).",
            hint="Run `sealserve certs renew`, then build and ship a new release.",
        )
    if first - now > CLOCK_SKEW:
        raise CertificateNotYetValidError(
            f"{source} ({subject}) is not valid before {first:%Y-%m-%d %H:%M} UTC "
            f"(the time is {now:%Y-%m-%d %H:%M} UTC).",
            hint="Check this machine's clock.",
        )


def check_key(key_pem: SecretBytes, chain_pem: bytes, *, source: str = "the certificate") -> None:
    """Check that a private key matches the first certificate of a chain.

    Raises:
        InputError: `certificate.unreadable` if ``chain_pem`` does not contain a PEM certificate.
        InputError: `certificate.key-unreadable` if ``key_pem`` is not an unencrypted PEM private key, or is longer than
            `LARGEST_KEY`.
        InputError: `certificate.unsupported` if the certificate has a key of an unknown type.
        KeyMismatchError: The private key does not match the certificate.
    """
    certificate = parse_chain(chain_pem, source=source)[0]
    if len(key_pem.reveal()) > LARGEST_KEY:
        raise PkiCode.CERTIFICATE_KEY_UNREADABLE.error(
            f"The private key of {source} is too long: expected at most {LARGEST_KEY} bytes of PEM.",
            hint="Remove any text around the key. An RSA key of 8192 bits has 6400 bytes.",
        )
    try:
        key = serialization.load_pem_private_key(key_pem.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PkiCode.CERTIFICATE_KEY_UNREADABLE.error(
            f"The private key of {source} cannot be read: expected an unencrypted PEM key.",
            hint="Convert the key to unencrypted PKCS #8 PEM. sealserve seals it like the model.",
        ) from error
    try:
        certified = _public_bytes(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PkiCode.CERTIFICATE_UNSUPPORTED.error(
            f"The public key in {source} cannot be read: expected an elliptic-curve or RSA key.",
            hint="Issue a certificate for a P-256 key.",
        ) from error
    if _public_bytes(key.public_key()) != certified:
        raise KeyMismatchError(
            f"The private key does not match {source} ({certificate.subject.rfc4514_string()}).",
            hint="Use the private key that the certificate was issued for.",
        )


def describe(pem: bytes, *, source: str = "the certificate") -> tuple[CertificateInfo, ...]:
    """Return the content of each certificate in ``pem``, whether it is valid or not.

    Raises:
        InputError: `certificate.unreadable` if ``pem`` does not contain a PEM certificate.
    """
    return tuple(_describe(certificate) for certificate in parse_chain(pem, source=source))


def common_name(name: x509.Name) -> str:
    """Return the common name of a subject or issuer, or an empty string."""
    return next((str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)), "")


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return the value of a certificate's extension, or `None` if the certificate lacks it."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _describe(certificate: x509.Certificate) -> CertificateInfo:
    alternatives = extension(certificate, x509.SubjectAlternativeName)
    basic = extension(certificate, x509.BasicConstraints)
    constraints = extension(certificate, x509.NameConstraints)
    usage = extension(certificate, x509.ExtendedKeyUsage)
    addresses = alternatives.get_values_for_type(x509.IPAddress) if alternatives else []
    permitted = (constraints.permitted_subtrees if constraints else None) or []
    return CertificateInfo(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        names=tuple(alternatives.get_values_for_type(x509.DNSName)) if alternatives else (),
        addresses=tuple(value for value in addresses if isinstance(value, IPAddress)),
        permitted=tuple(str(subtree.value) for subtree in permitted),
        purposes=tuple(_PURPOSES.get(purpose, purpose.dotted_string) for purpose in usage) if usage else (),
        authority=basic is not None and basic.ca,
        key=key_kind(certificate.public_key()),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def key_kind(key: PublicKeyTypes | None) -> str:
    """Return the type of a public key, such as ``secp256r1``, ``RSA-3072`` or ``Ed25519``."""
    if key is None:
        return "unknown"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    return type(key).__name__.removesuffix("PublicKey")


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path, hint: str) -> bytes:
    try:
        return read_regular(path)
    except InputFileMissingError as error:
        raise CertificateMissingError(f"The file {path} does not exist.", hint=hint) from error
