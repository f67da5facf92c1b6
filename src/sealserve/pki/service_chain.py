"""Checks a certificate of another CA, such as a public CA, before the service uses it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError

from sealserve.pki.certificate import CertifiedKey, extension, parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.pki.tls_material import check_chain, check_tls_key

_CHAIN_HINT: Final = (
    "Use a file with the certificate and all intermediate certificates (often called fullchain.pem), and the root "
    "certificate of the same CA in service.tls_root_file."
)


def check_service_chain(pair: CertifiedKey, *, roots_pem: bytes, name: str, now: datetime, source: str) -> None:
    """Check that users who trust the roots will accept the service.

    1. The private key belongs to the certificate, and the TLS libraries support both.
    2. The certificate is valid now.
    3. It is for the name of the service, because clients compare the name, and for servers.
    4. It leads to a root over the intermediate certificates in the file. Browsers can fetch a missing one, and the
       clients of the service cannot.

    Args:
        pair: The private key and the certificate chain, leaf first.
        roots_pem: The roots that users trust, PEM.
        name: The DNS name of the service.
        now: The time of the check.
        source: The file of the chain, for errors.

    Raises:
        InputError: `certificate.unreadable`, `certificate.key-unreadable` or `certificate.unsupported`.
        KeyMismatchError: The private key is for another certificate.
        VerificationError: `certificate.expired`.
        CertificateNotYetValidError: The certificate is not valid yet.
        InputError: `certificate.name`: The certificate is for other names, or not for servers.
        VerificationError: `certificate.chain`: No path leads to a root.
    """
    check_tls_key(pair.key_pem, pair.chain_pem, source=source)  # (1)
    leaf, *others = parse_chain(pair.chain_pem, source=source)
    check_chain(pair.chain_pem, now, source=source)  # (2)
    alternatives = extension(leaf, x509.SubjectAlternativeName)
    names = alternatives.get_values_for_type(x509.DNSName) if alternatives else []
    if not any(_covers(pattern, name) for pattern in names):  # (3)
        raise PkiCode.CERTIFICATE_NAME.error(
            f"{source} is not for the service's name: expected {name}, got {', '.join(names) or 'no DNS name'}.",
            hint="Set service.name to a name in the certificate, or use a certificate for this name.",
        )
    if not _is_for_servers(leaf):
        raise PkiCode.CERTIFICATE_NAME.error(
            f"{source} is not for servers: its extended key usage lacks serverAuth.",
            hint="Use a certificate that the CA issued for a server.",
        )
    _verify(leaf, others, parse_chain(roots_pem, source="service.tls_root_file"), now=now, source=source)  # (4)


def _verify(
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    *,
    now: datetime,
    source: str,
) -> None:
    """Verify the path as the clients' TLS library does."""
    store = X509Store()
    for root in roots:
        store.add_cert(X509.from_cryptography(root))
    store.set_time(now)
    chain = [X509.from_cryptography(other) for other in others]
    try:
        path = X509StoreContext(store, X509.from_cryptography(leaf), chain).get_verified_chain()
    except X509StoreContextError as error:
        raise PkiCode.CERTIFICATE_CHAIN.error(
            f"{source} does not lead to a certificate in service.tls_root_file: {error}.", hint=_CHAIN_HINT
        ) from error
    # OpenSSL's check has no purpose here, and clients require it of each authority.
    for authority in (found.to_cryptography() for found in path[1:]):
        if not _is_for_servers(authority):
            raise PkiCode.CERTIFICATE_CHAIN.error(
                f"{source} leads over {authority.subject.rfc4514_string()}, which must not issue certificates of "
                "servers: its extended key usage lacks serverAuth.",
                hint=_CHAIN_HINT,
            )


def _is_for_servers(certificate: x509.Certificate) -> bool:
    usage = extension(certificate, x509.ExtendedKeyUsage)
    return usage is None or ExtendedKeyUsageOID.SERVER_AUTH in usage


def _covers(pattern: str, name: str) -> bool:
    """Return whether a name in a certificate covers a DNS name. A wildcard is the first label (RFC 9525, 6.3)."""
    pattern, name = pattern.lower(), name.lower()
    return pattern == name or (pattern.startswith("*.") and pattern[1:] == f".{name.partition('.')[2]}")
