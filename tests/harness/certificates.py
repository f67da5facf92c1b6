"""Keys and certificates of any kind and shape, which sealserve's own authorities do not issue."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAME: Final = "grpc.tf-serving.service.com"
CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-192": ec.SECP192R1(),
    "P-224": ec.SECP224R1(),
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
    "brainpoolP256r1": ec.BrainpoolP256R1(),
}


def make_key(kind: str) -> CertificateIssuerPrivateKeyTypes:
    """Return a new key: a curve of `CURVES`, ``RSA-bits``, ``Ed25519``, ``Ed448`` or ``DSA``."""
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind])
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    if kind == "DSA":
        return dsa.generate_private_key(2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "Ed25519" else ed448.Ed448PrivateKey.generate()


def key_text(key: CertificateIssuerPrivateKeyTypes, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def text(*certificates: x509.Certificate) -> bytes:
    """Return certificates as PEM, in this order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate authority: its name, its key, and its certificates."""

    name: str
    key: CertificateIssuerPrivateKeyTypes

    @classmethod
    def make(cls, name: str, kind: str = "P-256") -> "Signer":
        return cls(name, make_key(kind))

    def certificate(self, issuer: "Signer | None" = None, *, days: tuple[float, float] = (-1, 30)) -> x509.Certificate:
        """Return a certificate of this authority: self-signed, or signed by ``issuer``."""
        return _sign(issuer or self, self.name, self.key, days=days, authority=True)

    def leaf(
        self,
        key: CertificateIssuerPrivateKeyTypes,
        *,
        days: tuple[float, float] = (-1, 30),
        usage: x509.KeyUsage | None = None,
        dns_name: str = NAME,
    ) -> x509.Certificate:
        """Return a certificate for a server or a client."""
        return _sign(self, "leaf", key, days=days, authority=False, usage=usage, dns_name=dns_name)

    def revocation_list(self, *revoked: x509.Certificate) -> bytes:
        """Return a list of revoked certificates, PEM."""
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        builder = x509.CertificateRevocationListBuilder(name, now, now + timedelta(days=1))
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _sign(
    issuer: Signer,
    name: str,
    key: CertificateIssuerPrivateKeyTypes,
    *,
    days: tuple[float, float],
    authority: bool,
    usage: x509.KeyUsage | None = None,
    dns_name: str = NAME,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer.name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    unhashed = isinstance(issuer.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(issuer.key, None if unhashed else hashes.SHA256())
