"""Certificates of the broker's administrators: their own certificate authority (CA), and the role in a certificate.

The CA signs only client certificates, each with one URI: ``sealserve://administrator/ROLE/NAME``. Its name constraints
exclude all DNS names and addresses, so its certificates cannot impersonate a server. No other CA of a deployment is
trusted for administration, so the certificate of a user of the service is not the certificate of an administrator.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.clock import CLOCK_SKEW
from sealserve.errors import SealserveError
from sealserve.pki.authority import AUTHORITY_DAYS, CERTIFICATE_FILE, KEY_FILE
from sealserve.pki.certificate import CertifiedKey, check_dates, check_key, extension, parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.pki.profiles import authority_extensions, leaf_extensions
from sealserve.pki.signing import certificate_pem, private_pem, sign, sign_revocation_list, subject_name
from sealserve.regular_file import read_regular
from sealserve.secret import SecretBytes
from sealserve.terms import AdministratorRole
from sealserve.whole_folder import appearing
from sealserve.x509_errors import X509_ERRORS

REVOKED_FILE: Final = "revoked.pem"
"""The certificate revocation list (CRL) of the CA, beside its certificate."""

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_URI: Final = re.compile(rf"sealserve://administrator/(?P<role>[a-z]+)/(?P<name>{_NAME.pattern})")
_AUTHORITY_NAME: Final = "administrators authority"


@dataclass(frozen=True, slots=True, kw_only=True)
class Administrator:
    """An administrator, as a verified certificate names them.

    Args:
        name: 1 to 32 lower-case letters, digits and hyphens.
        role: The role.
        serial: The serial number of the certificate.
        not_after: Expiry of the certificate.
    """

    name: str
    role: AdministratorRole
    serial: int
    not_after: datetime


def check_name(name: str) -> None:
    """Check the name of an administrator.

    Raises:
        InputError: `administrator.name` if the name is invalid.
    """
    if not _NAME.fullmatch(name):
        raise PkiCode.ADMINISTRATOR_NAME.error(
            "The administrator's name is invalid: expected 1 to 32 lower-case letters, digits and hyphens, "
            f"got {name[:80]!r}.",
            hint="Choose another name, such as `alice` or `on-call-2`.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdministratorTrust:
    """What the broker needs to verify administrators. It contains no private key.

    Args:
        authority: The certificate of the administrators' CA.
        revoked: The newest certificate revocation list of that CA. Its signature is verified.
    """

    authority: x509.Certificate
    revoked: x509.CertificateRevocationList

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``ca.pem`` and ``revoked.pem``. Without the list, revocations would be hidden, so it must exist.

        Raises:
            InputFileMissingError: One of the two files does not exist.
            InputError: `certificate.unreadable` if the CA's certificate cannot be read.
            VerificationError: `administrator.revocation-list` if the list is damaged or another CA signed it.
        """
        authority = parse_chain(read_regular(folder / CERTIFICATE_FILE), source=str(folder / CERTIFICATE_FILE))[0]
        path = folder / REVOKED_FILE
        try:
            revoked = x509.load_pem_x509_crl(read_regular(path))
            key = authority.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey) or not revoked.is_signature_valid(key):
                raise ValueError("the administrators' authority did not sign it")  # noqa: TRY301  # one error for both
        except (ValueError, TypeError) as error:
            raise PkiCode.ADMINISTRATOR_REVOCATION_LIST.error(
                f"The revocation list {path} is invalid: {error}.",
                hint="Restore the file from a backup, or revoke an administrator to write the list again.",
            ) from error
        return cls(authority=authority, revoked=revoked)

    def identify(self, der: bytes, *, now: datetime) -> Administrator:
        """Verify a client certificate, and return the administrator that it names.

        TLS has already verified the chain at the start of the connection. The steps are repeated for each request,
        because the certificate may have expired or may have been revoked since.

        Args:
            der: The client's certificate, DER.
            now: The current time.

        Raises:
            VerificationError: `administrator.certificate` if the certificate is not an administrator's.
            VerificationError: `administrator.revoked` if the certificate is revoked.
            VerificationError: `certificate.expired` if the certificate or the CA has expired.
            CertificateNotYetValidError: The certificate or the CA is not valid yet.
        """
        # 1. The administrators' CA signed it. TLS verified this, but a wrong trust store must not decide alone.
        try:
            certificate = x509.load_der_x509_certificate(der)
            certificate.verify_directly_issued_by(self.authority)
        except (*X509_ERRORS, InvalidSignature) as error:
            raise _refused("the administrators' authority did not sign it") from error
        # 2. Both certificates are valid now.
        check_dates(self.authority, now, source="the certificate of the administrators' authority")
        check_dates(certificate, now, source="the administrator's certificate")
        try:
            # 3. It is a client's certificate. An authority or a server must not act as an administrator.
            basic = extension(certificate, x509.BasicConstraints)
            purposes = extension(certificate, x509.ExtendedKeyUsage)
            if (basic is not None and basic.ca) or list(purposes or ()) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
                raise _refused("its purpose is not only client authentication")
            # 4. It has exactly one name. With several names, two readers could choose different roles.
            names = list(extension(certificate, x509.SubjectAlternativeName) or ())
        except (ValueError, x509.DuplicateExtension) as error:
            raise _refused("its extensions cannot be read") from error
        uri = names[0].value if len(names) == 1 and isinstance(names[0], x509.UniformResourceIdentifier) else ""
        found = _URI.fullmatch(uri)
        if found is None or found["role"] not in set(AdministratorRole):
            raise _refused("it does not have exactly one name of the form sealserve://administrator/ROLE/NAME")
        # 5. It is not revoked.
        if self.revoked.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise PkiCode.ADMINISTRATOR_REVOKED.error(
                f"The certificate of the administrator {found['name']} is revoked.",
                hint="Ask the owner for a new certificate: `sealserve broker admin issue`.",
            )
        return Administrator(
            name=found["name"],
            role=AdministratorRole(found["role"]),
            serial=certificate.serial_number,
            not_after=certificate.not_valid_after_utc,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdministratorAuthority:
    """The CA of the administrators, with its private key. Only the owner's machine has it.

    Args:
        certificate: The self-signed certificate of the CA.
        key_pem: The private key, PKCS #8 PEM.
    """

    certificate: x509.Certificate
    key_pem: SecretBytes = field(repr=False)

    @classmethod
    def create(cls, *, simulated: bool, now: datetime, days: int = AUTHORITY_DAYS) -> Self:
        """Create a CA with a P-384 key. See `sealserve.pki.authority.Authority.create`."""
        key = ec.generate_private_key(ec.SECP384R1())
        subject = subject_name(_AUTHORITY_NAME, simulated=simulated)
        certificate = sign(
            subject=subject,
            issuer=subject,
            public_key=key.public_key(),
            signer=key,
            valid=(now - CLOCK_SKEW, now + timedelta(days=days)),
            extensions=authority_extensions(
                key.public_key(),
                purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
                names=(),
                addresses=(),
                critical_constraints=True,
            ),
        )
        return cls(certificate=certificate, key_pem=private_pem(key))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the CA that `save` wrote.

        Raises:
            InputFileMissingError: The certificate or the key does not exist.
            InputError: `certificate.unreadable` if the certificate is not PEM.
            InputError: `certificate.key-unreadable` if the key is not PEM.
            KeyMismatchError: The private key does not match the certificate.
        """
        content, key_pem = read_regular(folder / CERTIFICATE_FILE), SecretBytes(read_regular(folder / KEY_FILE))
        source = str(folder / CERTIFICATE_FILE)
        check_key(key_pem, content, source=source)
        return cls(certificate=parse_chain(content, source=source)[0], key_pem=key_pem)

    def save(self, folder: Path) -> None:
        """Write the certificate and the key to a new ``folder``, readable only by its owner. Write both or neither.

        Raises:
            OutputExistsError: The folder already exists. A CA key is never overwritten.
        """
        with appearing(folder, mode=0o700) as temporary:
            write_file(temporary / KEY_FILE, self.key_pem.reveal(), mode=PRIVATE)
            write_file(temporary / CERTIFICATE_FILE, certificate_pem(self.certificate))

    def issue(self, name: str, role: AdministratorRole, *, now: datetime, days: int) -> CertifiedKey:
        """Generate a P-256 key, and issue an administrator's certificate for it.

        Args:
            name: The administrator's name, as in `check_name`.
            role: The administrator's role.
            now: The start of the validity period.
            days: The length of the validity period. It ends with the validity of the CA at the latest.

        Raises:
            InputError: `administrator.name` if the name is invalid.
            VerificationError: `certificate.expired` if the CA has expired.
        """
        check_name(name)
        check_dates(self.certificate, now, source="the certificate of the administrators' authority")
        signer, key = self._signer(), ec.generate_private_key(ec.SECP256R1())
        certificate = sign(
            subject=subject_name(name, simulated=False),
            issuer=self.certificate.subject,
            public_key=key.public_key(),
            signer=signer,
            valid=(now - CLOCK_SKEW, min(now + timedelta(days=days), self.certificate.not_valid_after_utc)),
            extensions=leaf_extensions(
                key.public_key(),
                issuer=signer.public_key(),
                purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
                uris=[f"sealserve://administrator/{role}/{name}"],
            ),
        )
        return CertifiedKey(key_pem=private_pem(key), chain_pem=certificate_pem(certificate))

    def publish(self, folder: Path, revoked: Mapping[int, datetime], *, number: int, now: datetime) -> None:
        """Write the CA's certificate and its revocation list to the folder that the broker reads.

        Args:
            folder: An existing folder.
            revoked: The serial numbers of the revoked certificates, with the time of each revocation.
            number: The number of the list. It increases with each list.
            now: The time of issue.
        """
        content = sign_revocation_list(self.certificate, self._signer(), revoked, number=number, now=now)
        write_file(folder / REVOKED_FILE, content, keep_owner=True)
        write_file(folder / CERTIFICATE_FILE, certificate_pem(self.certificate), keep_owner=True)

    def _signer(self) -> ec.EllipticCurvePrivateKey:
        signer = serialization.load_pem_private_key(self.key_pem.reveal(), password=None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise PkiCode.AUTHORITY_UNREADABLE.error(
                "The private key of the administrators' authority has an unsupported type: "
                "expected an elliptic-curve key."
            )
        return signer


def _refused(reason: str) -> SealserveError:
    return PkiCode.ADMINISTRATOR_CERTIFICATE.error(
        f"The client's certificate is not a certificate of an administrator: {reason}.",
        hint="Use the file that `sealserve broker admin issue` wrote.",
    )
