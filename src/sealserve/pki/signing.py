"""Creation of certificates: subjects, signatures, PEM."""

from collections.abc import Mapping
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sealserve.clock import CLOCK_SKEW
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


def sign_revocation_list(
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    revoked: Mapping[int, datetime],
    *,
    number: int,
    now: datetime,
) -> bytes:
    """Return a complete certificate revocation list (CRL), PEM. It is valid as long as its CA.

    Args:
        authority: The certificate of the CA.
        signer: The key of the CA.
        revoked: The serial numbers of the revoked certificates, with the time of each revocation.
        number: The number of the list, which must increase with each list (RFC 5280, section 5.2.3).
        now: The time of issue.
    """
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=authority.subject,
        last_update=now - CLOCK_SKEW,
        next_update=max(authority.not_valid_after_utc, now),
    )
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(identifier, critical=False)
    for serial, moment in sorted(revoked.items()):
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, moment).build())
    return builder.sign(signer, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> SecretBytes:
    """Return a private key as PKCS #8 PEM, unencrypted."""
    return SecretBytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
