"""Certificates and their keys as PEM: what they say, whether they are valid now, whether they belong together."""

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

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

SIMULATED = "simulated"
"""The word in the names of everything that a simulated platform's deployment issues."""

LARGEST_KEY = 16 * 1024
"""The longest PEM of a private key that is read, in bytes.

Reading a key checks it, and that takes time with the cube of its length: a hostile RSA key of 4 MiB would take weeks.
"""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_PURPOSES = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}


class CertificateMissingError(InputError):
    """There is no certificate or key at that path."""

    code = "certificate.missing"


class KeyMismatchError(InputError):
    """The private key is not the one that the certificate speaks of."""

    code = "certificate.key-mismatch"


class CertificateNotYetValidError(VerificationError):
    """The certificate is not valid yet, or a clock is wrong."""

    code = "certificate.not-yet-valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInfo:
    """What a certificate says.

    Args:
        subject: Whose it is, as RFC 4514 text.
        issuer: Who signed it, as RFC 4514 text.
        serial: The serial number, hex.
        not_before: The first moment it is valid, UTC.
        not_after: The last one, UTC.
        names: The DNS names in it.
        addresses: The IP addresses in it.
        permitted: An authority's name constraints: the DNS names and networks it may sign for.
        purposes: ``server``, ``client``, or an object identifier.
        authority: Whether it may sign other certificates.
        key: The public key's kind, such as ``secp256r1`` or ``RSA-3072``.
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
        """Whether it says that it belongs to a simulated platform's deployment."""
        return SIMULATED in self.subject or SIMULATED in self.issuer


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedKey:
    """A private key and the certificate chain that speaks for it.

    Args:
        key_pem: The private key, PKCS #8 PEM.
        chain_pem: The certificate, then what a peer needs to reach the authority it trusts, PEM.
    """

    key_pem: SecretBytes
    chain_pem: bytes

    @classmethod
    def read(cls, *, certificate: Path, key: Path, missing: str = "Check the path.") -> Self:
        """Return what `write` wrote.

        Args:
            certificate: The file with the certificate chain.
            key: The file with the private key.
            missing: What to do if one of them is missing.

        Raises:
            CertificateMissingError: One of the two files is missing.
            InputError: `certificate.unreadable`: ``certificate`` holds none.
            InputError: `certificate.key-unreadable`: ``key`` holds none.
            KeyMismatchError: They do not belong together.
        """
        pair = cls(key_pem=SecretBytes(_read(key, missing)), chain_pem=_read(certificate, missing))
        try:
            check_key(pair.key_pem, pair.chain_pem, source=str(certificate))
        except KeyMismatchError as error:
            raise KeyMismatchError(
                error.message, hint="One may be newer than the other: `sealserve certs renew` issues both anew."
            ) from error
        return pair

    def write(self, *, certificate: Path, key: Path) -> None:
        """Write the two files, the key for its owner only. Existing ones are replaced.

        Neither is, if either cannot be written. A crash between the two renames leaves a fresh key beside an old
        certificate or none: `read` refuses that.
        """
        with replacing(certificate) as public, replacing(key, mode=PRIVATE) as private:
            public.write(self.chain_pem)
            private.write(self.key_pem.reveal())


def parse_chain(pem: bytes, *, source: str = "the certificate") -> tuple[x509.Certificate, ...]:
    """Return the certificates of ``pem``, at least one.

    Raises:
        InputError: `certificate.unreadable`: There is none, or one is damaged.
    """
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
        for certificate in certificates:  # names are decoded only when they are read
            certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    except (ValueError, TypeError, x509.InvalidVersion) as error:  # a TypeError: an attribute of a name of another kind
        raise PkiCode.CERTIFICATE_UNREADABLE.error(f"{source} holds no readable PEM certificate.") from error
    return certificates


def check_certificate(pem: bytes, now: datetime, *, source: str = "the certificate") -> None:
    """Check that each certificate of ``pem`` is valid at ``now``.

    Args:
        pem: One or more certificates.
        now: The time to check for, with a time zone.
        source: What to call it in errors: a file, or whose certificate it is.

    Raises:
        InputError: `certificate.unreadable`: No PEM certificate.
        VerificationError: `certificate.expired`: ``now`` is after the last moment of one.
        CertificateNotYetValidError: ``now`` is before the first moment of one, by more than `CLOCK_SKEW`.
    """
    for certificate in parse_chain(pem, source=source):
        check_dates(certificate, now, source=source)


def check_dates(certificate: x509.Certificate, now: datetime, *, source: str) -> None:
    """Check that one certificate is valid at ``now``; otherwise as `check_certificate`."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    subject = certificate.subject.rfc4514_string()
    if now > last:
        raise PkiCode.CERTIFICATE_EXPIRED.error(
            f"{source} ({subject}) expired on {last:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} UTC now.",
            hint="Renew it: `sealserve certs renew`, then build and ship a new release.",
        )
    if first - now > CLOCK_SKEW:
        raise CertificateNotYetValidError(
            f"{source} ({subject}) is valid from {first:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} UTC now.",
            hint="Check this machine's clock.",
        )


def check_key(key_pem: SecretBytes, chain_pem: bytes, *, source: str = "the certificate") -> None:
    """Check that a private key belongs to the first certificate of a chain.

    Raises:
        InputError: `certificate.unreadable`: No PEM certificate.
        InputError: `certificate.key-unreadable`: No PEM private key, one with a passphrase, or more than `LARGEST_KEY`.
        InputError: `certificate.unsupported`: The certificate has a key of an unknown kind.
        KeyMismatchError: The key is another one.
    """
    certificate = parse_chain(chain_pem, source=source)[0]
    if len(key_pem.reveal()) > LARGEST_KEY:
        raise PkiCode.CERTIFICATE_KEY_UNREADABLE.error(
            f"The private key of {source} is too long: expected at most {LARGEST_KEY} bytes of PEM.",
            hint="Give the key alone, without text around it: an RSA key of 8192 bits has 6400 bytes.",
        )
    try:
        key = serialization.load_pem_private_key(key_pem.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PkiCode.CERTIFICATE_KEY_UNREADABLE.error(
            f"The private key of {source} is no PEM key without a passphrase.",
            hint="Give it as PKCS #8 PEM, unencrypted: it is sealed like the model.",
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
            f"The private key does not belong to {source} ({certificate.subject.rfc4514_string()}).",
            hint="Give the key that the certificate was issued for.",
        )


def describe(pem: bytes, *, source: str = "the certificate") -> tuple[CertificateInfo, ...]:
    """Return what each certificate of ``pem`` says, valid or not.

    Raises:
        InputError: `certificate.unreadable`: No PEM certificate.
    """
    return tuple(_describe(certificate) for certificate in parse_chain(pem, source=source))


def common_name(name: x509.Name) -> str:
    """Return the common name of a subject or issuer, or an empty string."""
    return next((str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)), "")


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return the value of a certificate's extension, or None where it has no such extension."""
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
    """Return the kind of a public key, such as ``secp256r1``, ``RSA-3072`` or ``Ed25519``."""
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
        raise CertificateMissingError(f"There is no {path}.", hint=hint) from error
