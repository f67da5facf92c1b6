"""Keys and certificates of the simulated vendor, with the certificate profile of the genuine vendor.

Signatures and serial numbers are functions of the keys and the content, so that test vectors can be reproduced.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3 (ECDSA P-256 with
SHA-256; the extensions of root, PCK CA and PCK certificates; CRL version 2).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.errors import InputError
from sealserve.secret import SecretBytes

ORGANISATION: Final = "sealserve simulation, no processor vendor"
_CRL_URL: Final = "http://pcs.simulated.invalid/IntelSGXRootCA.der"
_LIFETIME: Final = timedelta(days=30 * 365)
_CRL_LIFETIME: Final = timedelta(days=30)
_SKEW: Final = timedelta(days=1)
_SERIAL_SIZE: Final = 19  # a serial number has at most 20 bytes and is positive (RFC 5280 section 4.1.2.2)

Keys = Callable[[], ec.EllipticCurvePrivateKey]
"""Returns the next key. `new_key` generates it."""


class SimulatedStateError(InputError):
    """A folder of the simulation is missing a required file, or the file is invalid."""

    code = "simulated.state"


def new_key() -> ec.EllipticCurvePrivateKey:
    """Generate a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return an ECDSA SHA-256 signature as raw r and s, 64 bytes big-endian, the form in SGX structures."""
    der = key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = utils.decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public key as raw x and y, 64 bytes big-endian."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def save_key(key: ec.EllipticCurvePrivateKey, path: Path) -> None:
    """Write a private key as PEM with mode 0600."""
    with SecretBytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())) as pem:
        write_file(path, pem.reveal(), mode=PRIVATE)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Load a private key.

    Raises:
        SimulatedStateError: The file does not exist or is not a private key.
    """
    try:
        with SecretBytes(path.read_bytes()) as pem:
            key = load_pem_private_key(pem.reveal(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SimulatedStateError(
            f"{path} is not a private key of the simulation.",
            hint="Delete the simulation's folder and create it again.",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SimulatedStateError(
            f"{path} is not a P-256 key of the simulation.", hint="Delete the simulation's folder and create it again."
        )
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate and its private key: the root, a PCK CA, or the signer of TCB info."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create_root(cls, name: str, *, now: datetime, keys: Keys = new_key) -> Self:
        """Create a self-signed root."""
        key = keys()
        subject = _name(name)
        builder = _builder(subject, subject, key.public_key(), key.public_key(), now)
        return cls(
            certificate=_with_usage(builder, path_length=1).sign(key, hashes.SHA256(), ecdsa_deterministic=True),
            key=key,
        )

    def create_authority(self, name: str, *, now: datetime, keys: Keys = new_key) -> Self:
        """Create a certificate authority below this one."""
        return self._create(name, keys(), now=now, path_length=0)

    def create_signer(self, name: str, *, now: datetime, keys: Keys = new_key) -> Self:
        """Create a signer of documents below this authority."""
        return self._create(name, keys(), now=now, path_length=None)

    def _create(self, name: str, key: ec.EllipticCurvePrivateKey, *, now: datetime, path_length: int | None) -> Self:
        builder = _builder(_name(name), self.certificate.subject, key.public_key(), self.key.public_key(), now)
        certificate = _with_usage(builder, path_length=path_length).sign(
            self.key, hashes.SHA256(), ecdsa_deterministic=True
        )
        return type(self)(certificate=certificate, key=key)

    def issue(
        self, name: str, public_key: ec.EllipticCurvePublicKey, *, extension: x509.UnrecognizedExtension, now: datetime
    ) -> x509.Certificate:
        """Issue a leaf certificate for the given public key, with one additional extension."""
        builder = _builder(_name(name), self.certificate.subject, public_key, self.key.public_key(), now)
        return (
            _with_usage(builder, path_length=None)
            .add_extension(extension, critical=False)
            .sign(self.key, hashes.SHA256(), ecdsa_deterministic=True)
        )

    def revocation_list(self, serials: Sequence[int], *, number: int, now: datetime) -> bytes:
        """Return this authority's revocation list (CRL) in DER, valid for 30 days."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now)
            .next_update(now + _CRL_LIFETIME)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)

    def save(self, folder: Path, stem: str) -> None:
        """Write ``STEM.der`` and ``STEM.key``. The key is readable only by its owner."""
        save_key(self.key, folder / f"{stem}.key")
        write_file(folder / f"{stem}.der", self.certificate.public_bytes(Encoding.DER))

    @classmethod
    def load(cls, folder: Path, stem: str) -> Self:
        """Load the files that `save` wrote.

        Raises:
            SimulatedStateError: A file does not exist or is invalid.
        """
        path = folder / f"{stem}.der"
        try:
            certificate = x509.load_der_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise SimulatedStateError(
                f"{path} is not a certificate of the simulation.",
                hint="Delete the simulation's folder and create it again.",
            ) from error
        return cls(certificate=certificate, key=load_key(folder / f"{stem}.key"))


def chain_pem(*certificates: x509.Certificate) -> str:
    """Return the concatenated PEM of certificates."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
) -> x509.CertificateBuilder:
    point = x509.DistributionPoint(
        full_name=[x509.UniformResourceIdentifier(_CRL_URL)], relative_name=None, reasons=None, crl_issuer=None
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(_serial(subject, public_key))
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _serial(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> int:
    key = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return int.from_bytes(hashlib.sha256(subject.public_bytes() + key).digest()[:_SERIAL_SIZE])


def _with_usage(builder: x509.CertificateBuilder, *, path_length: int | None) -> x509.CertificateBuilder:
    is_authority = path_length is not None
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=not is_authority,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
    return builder.add_extension(usage, critical=True).add_extension(
        x509.BasicConstraints(ca=is_authority, path_length=path_length), critical=True
    )
