"""The three certificate authorities (CAs): for the broker, for the service and for the users.

Each CA signs for one purpose, and for the names and addresses in its own name constraints. Therefore the CA that
enclaves trust for the broker cannot sign user certificates, and no CA can sign for another site. The service's CA may
also sign the issuing CA of the broker (`sealserve.pki.issuing`). The other two sign only leaf certificates.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
from sealserve.clock import CLOCK_SKEW
from sealserve.errors import InputError
from sealserve.pki.certificate import (
    SIMULATED,
    CertifiedKey,
    IPAddress,
    check_certificate,
    check_key,
    common_name,
    extension,
    parse_chain,
)
from sealserve.pki.codes import PkiCode
from sealserve.pki.profiles import authority_extensions, leaf_extensions
from sealserve.pki.signing import certificate_pem, private_pem, sign, sign_revocation_list, subject_name
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.secret import SecretBytes
from sealserve.terms import LEAF_DAYS
from sealserve.whole_folder import appearing

AUTHORITY_DAYS = 3650

CERTIFICATE_FILE = "ca.pem"
KEY_FILE = "ca.key"

_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_LONGEST_COMMON_NAME = 64  # RFC 5280, appendix A.1, ub-common-name


class AuthorityMissingError(InputError):
    """The folder does not contain a certificate authority."""

    code = "authority.missing"


class AuthorityKind(StrEnum):
    """The role of a certificate authority."""

    BROKER = "broker"
    SERVICE = "service"
    USERS = "users"

    @property
    def purpose(self) -> x509.ObjectIdentifier:
        """The extended key usage of the certificates that this CA signs."""
        return ExtendedKeyUsageOID.CLIENT_AUTH if self is AuthorityKind.USERS else ExtendedKeyUsageOID.SERVER_AUTH

    @property
    def critical_constraints(self) -> bool:
        """Whether the name constraints are critical, as RFC 5280 requires.

        The broker's CA has non-critical constraints. The enclave's provisioning library reads it with Mbed TLS, which
        does not support name constraints and rejects a certificate with a critical one (Mbed-TLS/mbedtls issue 8759).
        OpenSSL and BoringSSL apply the constraints in both cases.
        """
        return self is not AuthorityKind.BROKER

    @property
    def signs_authorities(self) -> bool:
        """Whether this CA may sign a CA below it, which signs only leaf certificates."""
        return self is AuthorityKind.SERVICE

    @property
    def signs_addresses(self) -> bool:
        """Whether this CA may sign for IP addresses.

        The peers of the other two CAs use gRPC. Its BoringSSL rejects each certificate with an address if the CA
        constrains addresses ("unsupported name constraint type").
        """
        return self is AuthorityKind.BROKER


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority (CA) with its private key.

    Args:
        kind: The role of the CA.
        certificate_pem: The self-signed CA certificate, PEM. Peers trust this certificate.
        key_pem: The private key, PKCS #8 PEM.
    """

    kind: AuthorityKind
    certificate_pem: bytes
    key_pem: SecretBytes
    _certificate: x509.Certificate = field(repr=False)

    @classmethod
    def create(
        cls,
        kind: AuthorityKind,
        *,
        names: Sequence[str],
        addresses: Sequence[IPAddress] = (),
        simulated: bool,
        now: datetime,
        days: int = AUTHORITY_DAYS,
    ) -> Self:
        """Create a CA with a P-384 key.

        Args:
            kind: The role of the CA.
            names: The DNS names that the CA may sign for, each with its subdomains.
            addresses: The IP addresses that the CA may sign for. Permitted only for the broker's CA.
            simulated: Whether the names of the CA and of its certificates contain the word "simulated".
            now: The start of the validity period.
            days: The length of the validity period.

        Raises:
            InputError: `authority.invalid-name` if names and addresses are both empty, if a name is not a DNS name, or
                if addresses are given for the service's or the users' CA.
        """
        _check_names(names, addresses)
        if addresses and not kind.signs_addresses:
            raise PkiCode.AUTHORITY_INVALID_NAME.error(
                f"The {kind} CA can sign only for DNS names, but these IP addresses were given: "
                f"{', '.join(map(str, addresses))}.",
                hint="Use a DNS name for the service. Clients select replicas by name (SNI), not by IP address.",
            )
        key = ec.generate_private_key(ec.SECP384R1())
        certificate = _self_signed(kind, key, names=names, addresses=addresses, simulated=simulated, now=now, days=days)
        return cls(
            kind=kind, certificate_pem=certificate_pem(certificate), key_pem=private_pem(key), _certificate=certificate
        )

    def renewed(self, *, now: datetime, days: int = AUTHORITY_DAYS) -> Self:
        """Issue the certificate of this CA again, with the same key, names and addresses.

        The new certificate permits what a new CA of this version may sign. Peers that trust it also accept the
        certificates that the CA signed before, because key and subject are the same.

        Args:
            now: The start of the validity period.
            days: The length of the validity period.
        """
        domains, networks = permitted_by(self._certificate)
        certificate = _self_signed(
            self.kind,
            self._signer(),
            names=domains,
            addresses=[network.network_address for network in networks],
            simulated=self.simulated,
            now=now,
            days=days,
        )
        return replace(self, certificate_pem=certificate_pem(certificate), _certificate=certificate)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the CA that `save` wrote to ``folder``.

        Raises:
            AuthorityMissingError: The certificate or the key does not exist.
            InputError: `authority.unreadable` if the certificate is not a CA certificate of sealserve.
            InputError: `certificate.unreadable` if the certificate is not PEM.
            InputError: `certificate.key-unreadable` if the key is not PEM.
            KeyMismatchError: The private key does not match the certificate.
        """
        try:
            certificate_pem = read_regular(folder / CERTIFICATE_FILE)
            key_pem = SecretBytes(read_regular(folder / KEY_FILE))
        except InputFileMissingError as error:
            raise AuthorityMissingError(
                f"The folder {folder} does not contain a certificate authority ({CERTIFICATE_FILE} and {KEY_FILE}).",
                hint="Run `sealserve certs two-way` or `sealserve certs one-way` to create the authorities.",
            ) from error
        source = str(folder / CERTIFICATE_FILE)
        certificate = parse_chain(certificate_pem, source=source)[0]
        check_key(key_pem, certificate_pem, source=source)
        found = common_name(certificate.subject)
        for kind in AuthorityKind:
            if found in (_authority_name(kind, simulated=True), _authority_name(kind, simulated=False)):
                return cls(kind=kind, certificate_pem=certificate_pem, key_pem=key_pem, _certificate=certificate)
        raise PkiCode.AUTHORITY_UNREADABLE.error(
            f"{source} is not a certificate authority of sealserve: its common name is {found!r}.",
            hint="Restore the folder from a backup.",
        )

    @property
    def simulated(self) -> bool:
        """Whether the CA belongs to the deployment of a simulated platform, according to its name."""
        return SIMULATED in common_name(self._certificate.subject)

    def save(self, folder: Path) -> None:
        """Write the certificate and the key to a new ``folder``, readable only by its owner. Write both or neither.

        Raises:
            OutputExistsError: The folder already exists. A CA key is never overwritten.
        """
        try:
            with appearing(folder, mode=0o700) as temporary:
                write_file(temporary / KEY_FILE, self.key_pem.reveal(), mode=PRIVATE)
                write_file(temporary / CERTIFICATE_FILE, self.certificate_pem)
        except OutputExistsError as error:
            raise OutputExistsError(
                error.message,
                hint="Move the old folder away first. Certificates of the old CA are then no longer trusted.",
            ) from error

    def save_certificate(self, folder: Path) -> None:
        """Replace the certificate in a ``folder`` with the key of this CA. The key is not written.

        Raises:
            KeyMismatchError: The folder has another key.
        """
        path = folder / CERTIFICATE_FILE
        check_key(SecretBytes(read_regular(folder / KEY_FILE)), self.certificate_pem, source=str(path))
        write_file(path, self.certificate_pem)

    def issue_server(
        self, names: Sequence[str], addresses: Sequence[IPAddress] = (), *, now: datetime, days: int = LEAF_DAYS
    ) -> CertifiedKey:
        """Generate a P-256 key and issue a server certificate for it.

        Args:
            names: The server's DNS names.
            addresses: The server's IP addresses.
            now: The start of the validity period.
            days: The length of the validity period. It ends with the validity of the CA at the latest.

        Raises:
            InputError: `authority.wrong-purpose` if this is the users' CA, which does not sign servers.
            InputError: `authority.invalid-name` if names and addresses are both empty, or a name is not a DNS name.
            InputError: `authority.name-not-permitted` if the name constraints of the CA exclude a name or address.
            VerificationError: `certificate.expired` if the CA certificate has expired.
            CertificateNotYetValidError: The CA certificate is not valid yet.
        """
        return self._issue(ExtendedKeyUsageOID.SERVER_AUTH, names, addresses, now=now, days=days)

    def issue_client(self, name: str, *, now: datetime, days: int = LEAF_DAYS) -> CertifiedKey:
        """Generate a P-256 key and issue a client certificate for the DNS name ``name``. See `issue_server`."""
        return self._issue(ExtendedKeyUsageOID.CLIENT_AUTH, (name,), (), now=now, days=days)

    def issue_authority(
        self,
        public_key: ec.EllipticCurvePublicKey,
        *,
        subject: str,
        names: Sequence[str],
        now: datetime,
        days: int,
    ) -> x509.Certificate:
        """Issue the certificate of a CA that signs only leaf certificates, for the same purpose.

        Args:
            public_key: The key of the new CA.
            subject: The common name of the new CA.
            names: The DNS names that the new CA may sign for.
            now: The start of the validity period.
            days: The length of the validity period. It ends with the validity of this CA at the latest.

        Raises:
            InputError: `authority.no-intermediate` if this CA must not sign other CAs.
            InputError: `authority.name-not-permitted` if the name constraints of this CA exclude a name.
            VerificationError: `certificate.expired` if the certificate of this CA has expired.
            CertificateNotYetValidError: The certificate of this CA is not valid yet.
        """
        _check_names(names, ())
        self.check_may_sign_authorities()
        check_certificate(self.certificate_pem, now, source=f"the certificate of the {self.kind} CA")
        self._check_permitted(names, ())
        signer = self._signer()
        return sign(
            subject=subject_name(subject, simulated=self.simulated),
            issuer=self._certificate.subject,
            public_key=public_key,
            signer=signer,
            valid=(now - CLOCK_SKEW, min(now + timedelta(days=days), self._certificate.not_valid_after_utc)),
            extensions=authority_extensions(
                public_key,
                purpose=self.kind.purpose,
                names=names,
                addresses=(),
                critical_constraints=self.kind.critical_constraints,
                issuer=signer.public_key(),
            ),
        )

    def issue_revocation_list(self, revoked: Mapping[int, datetime], *, number: int, now: datetime) -> bytes:
        """Return a complete certificate revocation list (CRL), PEM.

        Args:
            revoked: The serial numbers of the revoked certificates, with the time of each revocation.
            number: The number of the list, which must increase with each list (RFC 5280, section 5.2.3).
            now: The time of issue. The list is valid as long as the CA, because each release contains its own list.

        Raises:
            InputError: `authority.unreadable` if the key of the CA is not an elliptic-curve key.
        """
        return sign_revocation_list(self._certificate, self._signer(), revoked, number=number, now=now)

    def _signer(self) -> ec.EllipticCurvePrivateKey:
        signer = serialization.load_pem_private_key(self.key_pem.reveal(), password=None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise PkiCode.AUTHORITY_UNREADABLE.error(
                f"The private key of the {self.kind} CA has an unsupported type: expected an elliptic-curve key."
            )
        return signer

    def _issue(
        self,
        purpose: x509.ObjectIdentifier,
        names: Sequence[str],
        addresses: Sequence[IPAddress],
        *,
        now: datetime,
        days: int,
    ) -> CertifiedKey:
        if purpose != self.kind.purpose:
            signs = "clients" if self.kind is AuthorityKind.USERS else "servers"
            raise PkiCode.AUTHORITY_WRONG_PURPOSE.error(
                f"The {self.kind} CA signs only certificates of {signs}.",
                hint="Use the users' CA for client certificates, and the other CAs for server certificates.",
            )
        _check_names(names, addresses)
        check_certificate(self.certificate_pem, now, source=f"the certificate of the {self.kind} CA")
        self._check_permitted(names, addresses)
        signer = self._signer()
        key = ec.generate_private_key(ec.SECP256R1())  # used in handshakes, where P-256 is the fastest curve
        shown = names[0] if names and len(names[0]) <= _LONGEST_COMMON_NAME else ""
        end = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        certificate = sign(
            subject=subject_name(shown, simulated=self.simulated),
            issuer=self._certificate.subject,
            public_key=key.public_key(),
            signer=signer,
            valid=(now - CLOCK_SKEW, end),
            extensions=leaf_extensions(
                key.public_key(), issuer=signer.public_key(), purpose=purpose, names=names, addresses=addresses
            ),
        )
        return CertifiedKey(key_pem=private_pem(key), chain_pem=certificate_pem(certificate))

    @property
    def may_sign_authorities(self) -> bool:
        """Whether the certificate of this CA permits a CA below it."""
        basic = extension(self._certificate, x509.BasicConstraints)
        return basic is not None and basic.path_length != 0

    def check_may_sign_authorities(self) -> None:
        """Check that the certificate of this CA permits a CA below it.

        Raises:
            InputError: `authority.no-intermediate`: It does not.
        """
        if not self.may_sign_authorities:
            raise PkiCode.AUTHORITY_NO_INTERMEDIATE.error(
                f"The {self.kind} CA must not sign another CA, which attested serving requires: an earlier version of "
                "sealserve issued its certificate.",
                hint="Run `sealserve certs renew-service-ca`, and send the new user/service-ca.pem to the users before "
                "you run `sealserve up`. Until then, use server.dangerous_owner_tls_key = true in sealserve.toml.",
            )

    def permits(self, names: Sequence[str], addresses: Sequence[IPAddress] = ()) -> bool:
        """Return whether the CA's name constraints permit these names and addresses."""
        try:
            self._check_permitted(names, addresses)
        except InputError:
            return False
        return True

    def _check_permitted(self, names: Sequence[str], addresses: Sequence[IPAddress]) -> None:
        domains, networks = permitted_by(self._certificate)
        refused = [name for name in names if not any(f".{name}".endswith(f".{domain}") for domain in domains)]
        refused += [str(address) for address in addresses if not any(address in network for network in networks)]
        if refused:
            raise PkiCode.AUTHORITY_NAME_NOT_PERMITTED.error(
                f"The {self.kind} CA is not permitted to sign for {', '.join(refused)}: "
                f"its name constraints permit only {', '.join(map(str, (*domains, *networks)))}.",
                hint="Move the folder of the old CA away, and create a CA for the other names.",
            )


def permitted_by(
    certificate: x509.Certificate,
) -> tuple[list[str], list[ipaddress.IPv4Network | ipaddress.IPv6Network]]:
    """Return the domains and networks that the name constraints of a CA permit."""
    constraints = extension(certificate, x509.NameConstraints)
    permitted = [subtree.value for subtree in (constraints and constraints.permitted_subtrees) or ()]
    domains = [value for value in permitted if isinstance(value, str)]
    networks = [value for value in permitted if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network)]
    return domains, networks


def _self_signed(
    kind: AuthorityKind,
    key: ec.EllipticCurvePrivateKey,
    *,
    names: Sequence[str],
    addresses: Sequence[IPAddress],
    simulated: bool,
    now: datetime,
    days: int,
) -> x509.Certificate:
    """Return a CA certificate for a key."""
    subject = subject_name(_authority_name(kind, simulated=simulated), simulated=simulated)
    return sign(
        subject=subject,
        issuer=subject,
        public_key=key.public_key(),
        signer=key,
        valid=(now - CLOCK_SKEW, now + timedelta(days=days)),
        extensions=authority_extensions(
            key.public_key(),
            purpose=kind.purpose,
            names=names,
            addresses=addresses,
            critical_constraints=kind.critical_constraints,
            intermediates=kind.signs_authorities,
        ),
    )


def split_names(values: Iterable[str]) -> tuple[tuple[str, ...], tuple[IPAddress, ...]]:
    """Split ``values`` into DNS names and IP addresses, in order and without duplicates."""
    names: dict[str, None] = {}
    addresses: dict[IPAddress, None] = {}
    for value in values:
        try:
            addresses[ipaddress.ip_address(value)] = None
        except ValueError:
            names[value] = None
    return tuple(names), tuple(addresses)


def _check_names(names: Sequence[str], addresses: Sequence[IPAddress]) -> None:
    if not names and not addresses:
        raise PkiCode.AUTHORITY_INVALID_NAME.error(
            "The certificate cannot be issued: it requires at least one DNS name or IP address."
        )
    for name in names:
        if not _DNS_NAME.fullmatch(name):
            raise PkiCode.AUTHORITY_INVALID_NAME.error(
                f"The DNS name is invalid: expected a lower-case DNS name, got {name!r}.",
                hint="Remove any wildcard, scheme or port.",
            )


def _authority_name(kind: AuthorityKind, *, simulated: bool) -> str:
    return f"sealserve {kind} authority" + (f" ({SIMULATED})" if simulated else "")
