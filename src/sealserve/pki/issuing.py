"""The issuing CA: the broker uses it to issue certificates for the TLS keys that enclaves create.

The service's CA signs the issuing CA, so users need no other root. The broker is exposed to the network, so the power
of the issuing CA is small. It signs only leaf certificates for servers, and only for the names of the service. Its
private key is stored only in encrypted form, as 32 bytes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from sealserve.clock import CLOCK_SKEW
from sealserve.pki.authority import Authority, permitted_by
from sealserve.pki.certificate import SIMULATED, check_dates, common_name, extension, parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.pki.profiles import leaf_extensions
from sealserve.pki.signing import certificate_pem, sign, subject_name
from sealserve.secret import SecretBytes
from sealserve.terms import LEAF_DAYS

ISSUING_DAYS: Final = LEAF_DAYS
"""The validity of an issuing CA. A thief of its key can use it for this time. The owner replaces it before its end."""
KEY_SIZE: Final = 32
"""The size of the private key: the number of a P-256 key, big-endian."""

_NAME: Final = "sealserve issuing CA"
_KEY_ID_DIGITS: Final = 32
_LONGEST_COMMON_NAME: Final = 64  # RFC 5280, appendix A.1, ub-common-name


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingCertificate:
    """The certificate of an issuing CA, without its private key.

    Args:
        certificate: The certificate.
        names: The DNS names that it may sign for: the names of each certificate that it issues.
    """

    certificate: x509.Certificate
    names: tuple[str, ...]

    @classmethod
    def parse(cls, pem: bytes, *, source: str = "the issuing CA") -> Self:
        """Parse the certificate.

        Args:
            pem: The certificate, PEM.
            source: The file in errors.

        Raises:
            InputError: `certificate.unreadable` if ``pem`` is not a PEM certificate.
            InputError: `authority.unreadable` if it is not the certificate of an issuing CA: a CA with a P-256 key that
                signs only leaf certificates, and only for DNS names.
        """
        certificate = parse_chain(pem, source=source)[0]
        basic = extension(certificate, x509.BasicConstraints)
        names, _ = permitted_by(certificate)
        try:
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            key = None
        is_authority = basic is not None and basic.ca and basic.path_length == 0
        if not is_authority or not names or not _is_p256(key):
            raise PkiCode.AUTHORITY_UNREADABLE.error(
                f"{source} is not the certificate of an issuing CA: {certificate.subject.rfc4514_string()}.",
                hint="Restore the file from a backup, or run `sealserve certs rotate-issuing`.",
            )
        return cls(certificate=certificate, names=tuple(names))

    @property
    def pem(self) -> bytes:
        """The certificate, PEM."""
        return certificate_pem(self.certificate)

    @property
    def key_id(self) -> str:
        """The id of the private key: 32 digits of SHA-256 of its SubjectPublicKeyInfo, as hex."""
        return _key_id(self.certificate.public_key().public_bytes(*_SPKI))

    @property
    def ends(self) -> datetime:
        """The end of the validity."""
        return self.certificate.not_valid_after_utc

    def check(self, now: datetime) -> None:
        """Check that the certificate is valid at ``now``.

        Raises:
            VerificationError: `certificate.expired` if it has expired.
            CertificateNotYetValidError: Its validity has not begun.
        """
        check_dates(self.certificate, now, source="the issuing CA")

    def is_issued_by(self, authority: Authority) -> bool:
        """Return whether a CA signed this certificate."""
        issuer = parse_chain(authority.certificate_pem)[0]
        try:
            self.certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    def issue(self, public_key_info: bytes, *, key: SecretBytes, now: datetime, until: datetime) -> bytes:
        """Issue a certificate for the TLS key of an enclave, and return it with its issuer, PEM, leaf first.

        Args:
            public_key_info: The TLS key as a SubjectPublicKeyInfo, DER: a P-256 key.
            key: The private key of this CA.
            now: The time of issue.
            until: The end of the validity. It is at the latest the end of this CA.

        Raises:
            VerificationError: `certificate.expired`, or `certificate.not-yet-valid`, for this CA.
            InputError: `authority.key-mismatch` if ``key`` is the key of another CA.
        """
        self.check(now)
        public_key = serialization.load_der_public_key(public_key_info)
        assert isinstance(public_key, ec.EllipticCurvePublicKey)  # noqa: S101  # the caller checked the request
        signer = load_key(key)
        if _key_id(signer.public_key().public_bytes(*_SPKI)) != self.key_id:
            raise PkiCode.AUTHORITY_KEY_MISMATCH.error(
                "The private key does not match the certificate of the issuing CA.",
                hint="Run `sealserve certs rotate-issuing`.",
            )
        shown = self.names[0] if len(self.names[0]) <= _LONGEST_COMMON_NAME else ""
        leaf = sign(
            subject=subject_name(shown, simulated=SIMULATED in common_name(self.certificate.subject)),
            issuer=self.certificate.subject,
            public_key=public_key,
            signer=signer,
            valid=(max(now - CLOCK_SKEW, self.certificate.not_valid_before_utc), min(until, self.ends)),
            extensions=leaf_extensions(
                public_key,
                issuer=signer.public_key(),
                purpose=ExtendedKeyUsageOID.SERVER_AUTH,
                names=self.names,
            ),
        )
        return certificate_pem(leaf) + self.pem


def create_issuing(
    service: Authority, names: Sequence[str], *, now: datetime, days: int = ISSUING_DAYS
) -> tuple[IssuingCertificate, SecretBytes]:
    """Create an issuing CA with a new P-256 key. Return its certificate and its private key.

    Args:
        service: The service's CA, which users trust.
        names: The DNS names of the service.
        now: The start of the validity period.
        days: The length of the validity period.

    Raises:
        SealserveError: As `Authority.issue_authority`.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    subject = f"{_NAME} ({SIMULATED})" if service.simulated else _NAME
    certificate = service.issue_authority(private.public_key(), subject=subject, names=names, now=now, days=days)
    number = private.private_numbers().private_value
    return IssuingCertificate.parse(certificate_pem(certificate)), SecretBytes(number.to_bytes(KEY_SIZE))


def load_key(key: SecretBytes) -> ec.EllipticCurvePrivateKey:
    """Return the private key of an issuing CA.

    Raises:
        InputError: `authority.key-mismatch` if the bytes are not a P-256 private key.
    """
    number = int.from_bytes(key.reveal()) if len(key) == KEY_SIZE else 0
    try:
        return ec.derive_private_key(number, ec.SECP256R1())
    except ValueError as error:
        raise PkiCode.AUTHORITY_KEY_MISMATCH.error(
            "The stored private key of the issuing CA is not a P-256 key.",
            hint="Run `sealserve certs rotate-issuing`.",
        ) from error


_SPKI: Final = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


def _key_id(public_key_info: bytes) -> str:
    return hashlib.sha256(public_key_info).hexdigest()[:_KEY_ID_DIGITS]


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
