"""Certificate profiles: the extensions of the CAs and of the certificates that they sign, with the reasons.

Source: RFC 5280, section 4.2.1; the sections are cited beside each extension.
"""

import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.pki.certificate import IPAddress

_EVERY_ADDRESS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_EVERY_NAME = ""  # 4.2.1.10: every DNS name satisfies the constraint with the empty name

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
"""Extensions, each with a flag for whether it is critical."""


def authority_extensions(
    key: ec.EllipticCurvePublicKey,
    *,
    purpose: x509.ObjectIdentifier,
    names: Sequence[str],
    addresses: Sequence[IPAddress],
    critical_constraints: bool,
    intermediates: bool = False,
    issuer: ec.EllipticCurvePublicKey | None = None,
) -> Extensions:
    """Return the extensions of a CA that signs certificates only for ``names`` and ``addresses``.

    Args:
        key: The CA's public key.
        purpose: The only extended key usage of the certificates that it signs. Peers enforce it along the chain.
        names: The DNS names that the CA may sign for, each with its subdomains.
        addresses: The IP addresses that the CA may sign for.
        critical_constraints: Whether a peer without support for name constraints must reject the CA.
        intermediates: Whether it may sign CAs that sign only leaf certificates. Otherwise it must not sign other CAs.
        issuer: The public key of the CA that signs this CA. `None` for a self-signed CA.
    """
    identifiers: Extensions = (
        () if issuer is None else ((x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False),)  # 4.2.1.1
    )
    return (
        (x509.BasicConstraints(ca=True, path_length=1 if intermediates else 0), True),  # 4.2.1.9
        (_usage(sign_certificates=True), True),  # 4.2.1.3
        (x509.ExtendedKeyUsage([purpose]), False),  # 4.2.1.12
        (_constraints(names, addresses), critical_constraints),  # 4.2.1.10
        (x509.SubjectKeyIdentifier.from_public_key(key), False),  # 4.2.1.2
        *identifiers,
    )


def leaf_extensions(
    key: ec.EllipticCurvePublicKey,
    *,
    issuer: ec.EllipticCurvePublicKey,
    purpose: x509.ObjectIdentifier,
    names: Sequence[str] = (),
    addresses: Sequence[IPAddress] = (),
    uris: Sequence[str] = (),
) -> Extensions:
    """Return the extensions of a server's or client's certificate.

    Args:
        key: The server's or client's public key.
        issuer: The CA's public key.
        purpose: Server or client authentication.
        names: The DNS names of the certificate.
        addresses: The IP addresses of the certificate.
        uris: The URIs of the certificate.
    """
    alternatives = [*map(x509.DNSName, names), *map(x509.IPAddress, addresses)]
    alternatives += map(x509.UniformResourceIdentifier, uris)
    return (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(sign_certificates=False), True),
        (x509.ExtendedKeyUsage([purpose]), False),
        (x509.SubjectAlternativeName(alternatives), False),  # 4.2.1.6: not critical if there is a subject
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False),  # 4.2.1.1
    )


def _constraints(names: Sequence[str], addresses: Sequence[IPAddress]) -> x509.NameConstraints:
    """Permit the listed entries. A type of name without entries is unconstrained (4.2.1.10), so exclude it entirely."""
    permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    permitted += [x509.IPAddress(ipaddress.ip_network(address)) for address in addresses]
    excluded: list[x509.GeneralName] = [] if names else [x509.DNSName(_EVERY_NAME)]
    excluded += [] if addresses else [x509.IPAddress(network) for network in _EVERY_ADDRESS]
    return x509.NameConstraints(permitted_subtrees=permitted or None, excluded_subtrees=excluded or None)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
