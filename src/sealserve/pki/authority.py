"""The three certificate authorities: one for the broker, one for the service, one for the users.

Each signs leaf certificates only, for one purpose, and for names and addresses that its own name constraints list: the
authority that enclaves trust to name the broker cannot name a user, and none of the three can name another site.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
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
from sealserve.pki.signing import certificate_pem, private_pem, sign, subject_name
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
    """There is no certificate authority in that folder."""

    code = "authority.missing"


class AuthorityKind(StrEnum):
    """Which of the three."""

    BROKER = "broker"
    SERVICE = "service"
    USERS = "users"

    @property
    def purpose(self) -> x509.ObjectIdentifier:
        """The extended key usage of what it signs."""
        return ExtendedKeyUsageOID.CLIENT_AUTH if self is AuthorityKind.USERS else ExtendedKeyUsageOID.SERVER_AUTH

    @property
    def critical_constraints(self) -> bool:
        """Whether its name constraints are critical, as RFC 5280 has it.

        The broker's are not: the enclave's provisioning library reads that authority with Mbed TLS, which knows no name
        constraints and refuses to load a certificate with a critical one (Mbed-TLS/mbedtls issue 8759). OpenSSL and
        BoringSSL apply them either way.
        """
        return self is not AuthorityKind.BROKER

    @property
    def signs_addresses(self) -> bool:
        """Whether it may sign for IP addresses.

        The peers of the other two are gRPC's: BoringSSL refuses each certificate with an address under an authority
        that constrains addresses ("unsupported name constraint type").
        """
        return self is AuthorityKind.BROKER


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority with its key.

    Args:
        kind: Which of the three.
        certificate_pem: Its self-signed certificate, PEM. This is what peers trust.
        key_pem: Its private key, PKCS #8 PEM.
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
        """Return a new authority, P-384.

        Args:
            kind: Which of the three.
            names: The DNS names it may sign for, each with the names below it.
            addresses: The IP addresses it may sign for; the broker's authority only.
            simulated: Whether its name, and those of what it signs, say "simulated".
            now: When it starts to be valid.
            days: For how long it is valid.

        Raises:
            InputError: `authority.invalid-name`: No name and no address, a name that is no DNS name, or an address for
                the service's or the users' authority.
        """
        _check_names(names, addresses)
        if addresses and not kind.signs_addresses:
            raise PkiCode.AUTHORITY_INVALID_NAME.error(
                f"The {kind} authority signs for DNS names only, not for {', '.join(map(str, addresses))}.",
                hint="Give the service a name: its replicas are told apart by it (SNI), which cannot be an address.",
            )
        key = ec.generate_private_key(ec.SECP384R1())
        subject = subject_name(_authority_name(kind, simulated=simulated), simulated=simulated)
        certificate = sign(
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
            ),
        )
        return cls(
            kind=kind, certificate_pem=certificate_pem(certificate), key_pem=private_pem(key), _certificate=certificate
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the authority that `save` wrote to ``folder``.

        Raises:
            AuthorityMissingError: The certificate or the key is missing.
            InputError: `authority.unreadable`: The certificate is not one of sealserve's authorities.
            InputError: `certificate.unreadable`: No PEM certificate.
            InputError: `certificate.key-unreadable`: No PEM key.
            KeyMismatchError: The key is another one.
        """
        try:
            certificate_pem = read_regular(folder / CERTIFICATE_FILE)
            key_pem = SecretBytes(read_regular(folder / KEY_FILE))
        except InputFileMissingError as error:
            raise AuthorityMissingError(
                f"There is no certificate authority in {folder} ({CERTIFICATE_FILE} and {KEY_FILE}).",
                hint="Make the three with `sealserve certs two-way` or `sealserve certs one-way`.",
            ) from error
        source = str(folder / CERTIFICATE_FILE)
        certificate = parse_chain(certificate_pem, source=source)[0]
        check_key(key_pem, certificate_pem, source=source)
        found = common_name(certificate.subject)
        for kind in AuthorityKind:
            if found in (_authority_name(kind, simulated=True), _authority_name(kind, simulated=False)):
                return cls(kind=kind, certificate_pem=certificate_pem, key_pem=key_pem, _certificate=certificate)
        raise PkiCode.AUTHORITY_UNREADABLE.error(
            f"{source} is {found!r}, which is no certificate authority of sealserve's."
        )

    @property
    def simulated(self) -> bool:
        """Whether it says that it belongs to a simulated platform's deployment."""
        return SIMULATED in common_name(self._certificate.subject)

    def save(self, folder: Path) -> None:
        """Write certificate and key to a new ``folder``, both or nothing, for their owner only.

        Raises:
            OutputExistsError: There is something already; an authority's key is never overwritten.
        """
        try:
            with appearing(folder, mode=0o700) as temporary:
                write_file(temporary / KEY_FILE, self.key_pem.reveal(), mode=PRIVATE)
                write_file(temporary / CERTIFICATE_FILE, self.certificate_pem)
        except OutputExistsError as error:
            raise OutputExistsError(
                error.message, hint="Move it away first: what it signed is trusted no more."
            ) from error

    def issue_server(
        self, names: Sequence[str], addresses: Sequence[IPAddress] = (), *, now: datetime, days: int = LEAF_DAYS
    ) -> CertifiedKey:
        """Return a fresh P-256 key and a server certificate for it.

        Args:
            names: The server's DNS names.
            addresses: Its IP addresses.
            now: When it starts to be valid.
            days: For how long, at most until the authority itself ends.

        Raises:
            InputError: `authority.wrong-purpose`: The users' authority signs no servers.
            InputError: `authority.invalid-name`: No name and no address, or a name that is no DNS name.
            InputError: `authority.name-not-permitted`: Not within the authority's name constraints.
            VerificationError: `certificate.expired`: The authority itself has expired.
            CertificateNotYetValidError: The authority itself is not valid yet.
        """
        return self._issue(ExtendedKeyUsageOID.SERVER_AUTH, names, addresses, now=now, days=days)

    def issue_client(self, name: str, *, now: datetime, days: int = LEAF_DAYS) -> CertifiedKey:
        """Return a fresh P-256 key and a client certificate for the DNS name ``name``; otherwise as `issue_server`."""
        return self._issue(ExtendedKeyUsageOID.CLIENT_AUTH, (name,), (), now=now, days=days)

    def issue_revocation_list(self, revoked: Mapping[int, datetime], *, number: int, now: datetime) -> bytes:
        """Return a complete certificate revocation list, PEM.

        Args:
            revoked: The serial numbers of the revoked certificates, and when each was revoked.
            number: The list's number, which rises with each list (RFC 5280, section 5.2.3).
            now: When the list is issued. It ends with the authority, since each release has its own list.

        Raises:
            InputError: `authority.unreadable`: The authority's key is not an elliptic-curve key.
        """
        signer = self._signer()
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self._certificate.subject,
            last_update=now - CLOCK_SKEW,
            next_update=max(self._certificate.not_valid_after_utc, now),
        )
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(identifier, critical=False)
        for serial, moment in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder(serial, moment).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(signer, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)

    def _signer(self) -> ec.EllipticCurvePrivateKey:
        signer = serialization.load_pem_private_key(self.key_pem.reveal(), password=None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise PkiCode.AUTHORITY_UNREADABLE.error(f"The {self.kind} authority's key is no elliptic-curve key.")
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
                f"The {self.kind} authority signs certificates of {signs} only."
            )
        _check_names(names, addresses)
        check_certificate(self.certificate_pem, now, source=f"the {self.kind} authority's certificate")
        self._check_permitted(names, addresses)
        signer = self._signer()
        key = ec.generate_private_key(ec.SECP256R1())  # the handshakes' key: P-256 is the fast one
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

    def permits(self, names: Sequence[str], addresses: Sequence[IPAddress] = ()) -> bool:
        """Return whether its name constraints let it sign for these names and addresses."""
        try:
            self._check_permitted(names, addresses)
        except InputError:
            return False
        return True

    def _check_permitted(self, names: Sequence[str], addresses: Sequence[IPAddress]) -> None:
        constraints = extension(self._certificate, x509.NameConstraints)
        permitted = [subtree.value for subtree in (constraints and constraints.permitted_subtrees) or ()]
        domains = [value for value in permitted if isinstance(value, str)]
        networks = [value for value in permitted if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network)]
        refused = [name for name in names if not any(f".{name}".endswith(f".{domain}") for domain in domains)]
        refused += [str(address) for address in addresses if not any(address in network for network in networks)]
        if refused:
            raise PkiCode.AUTHORITY_NAME_NOT_PERMITTED.error(
                f"The {self.kind} authority may not sign for {', '.join(refused)}; "
                f"it may for {', '.join(map(str, permitted))}.",
                hint="Make a new authority for other names (move the old folder away).",
            )


def split_names(values: Iterable[str]) -> tuple[tuple[str, ...], tuple[IPAddress, ...]]:
    """Return the DNS names and the IP addresses among ``values``, each once and in order."""
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
        raise PkiCode.AUTHORITY_INVALID_NAME.error("A certificate needs at least one DNS name or IP address.")
    for name in names:
        if not _DNS_NAME.fullmatch(name):
            raise PkiCode.AUTHORITY_INVALID_NAME.error(
                f"{name!r} is no DNS name in lower case.", hint="No wildcard, scheme or port."
            )


def _authority_name(kind: AuthorityKind, *, simulated: bool) -> str:
    return f"sealserve {kind} authority" + (f" ({SIMULATED})" if simulated else "")
