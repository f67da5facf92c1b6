"""Creation of certificates: subjects, signatures, PEM."""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sealserve.pki.certificate import SIMULATED
from sealserve.pki.profiles import Extensions
from sealserve.secret import SecretBytes


def subject_name(name: str, *, simulated: bool) -> x509.Name:
    """Return the subject of a certificate. An empty ``name`` means no common name."""
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"sealserve ({SIMULATED})" if simulated else "sealserve")
    ]
    if name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    return x509.Name(attributes)


def sign(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    valid: tuple[datetime, datetime],
    extensions: Extensions,
) -> x509.Certificate:
    """Sign a certificate for ``public_key`` with ``signer``. ``valid`` is the start and the end of its validity."""
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=valid[0],
        not_valid_after=valid[1],
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(signer, hashes.SHA384())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> SecretBytes:
    """Return a private key as PKCS #8 PEM, unencrypted."""
    return SecretBytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
