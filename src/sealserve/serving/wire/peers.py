"""The check of client certificates after the TLS library's verification. It is the same on every port.

The library verifies the client's certificates in the handshake. This check runs afterwards, on the same certificates.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cryptography import x509

from sealserve.errors import SealserveError
from sealserve.pki.revocation import Revoked, identity
from sealserve.pki.tls_material import check_peer

_REMEMBERED: Final = 4096
_MOST_CERTIFICATES: Final = 16
"""Maximum number of certificates that a client may send. A remembered verdict has 32 bytes of each."""
_LONGEST_FAULT: Final = 300
"""Maximum characters of a remembered fault, because it can quote a name that the client chose."""
_PEM_MARK: Final = b"-----BEGIN "
_DER: Final = 2
"""``_ssl.ENCODING_DER``."""
_LEAF: Final = b"x509_pem_cert"
_OTHERS: Final = b"x509_pem_cert_chain"


class _Verdict(NamedTuple):
    """The result for a client's certificates, independent of revocation."""

    fault: str | None
    identities: Revoked


_verdicts: dict[bytes, _Verdict] = {}


class PeerCheck:
    """Returns why gRPC's peer is not accepted, or None, with the currently revoked certificates.

    See `fault_of_properties`.

    Args:
        revoked: The certificates that are rejected.
    """

    look: Callable[[], None] = staticmethod(lambda: None)
    """Loads newer revocation lists from their source. Call it periodically, because open connections need them."""

    def __init__(self, revoked: Revoked) -> None:
        self._revoked = revoked

    def use(self, revoked: Revoked) -> None:
        """Replace the set of rejected certificates. It also applies to the next call of an open connection."""
        self._revoked = revoked

    def __call__(self, properties: Mapping[bytes, Sequence[bytes]]) -> str | None:
        """Return why the peer with these properties is not accepted, or None if it is."""
        return fault_of_properties(properties, self._revoked)


def fault_of(leaf: bytes, others: tuple[bytes, ...] | bytes = b"", revoked: Revoked = frozenset()) -> str | None:
    """Return why a client is not accepted, or None if it is.

    The result is remembered by a digest, because gRPC asks for each call and a client may send 100 KB of certificates.

    Args:
        leaf: The client's certificate, DER or PEM.
        others: The other certificates that the client sent: DER certificates, or PEM blocks.
        revoked: The certificates that are rejected, including as an intermediate authority.
    """
    parts = (others,) if isinstance(others, bytes) else others
    digest = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in (leaf, *parts))).digest()
    try:
        verdict = _verdicts[digest]
    except KeyError:
        verdict = _judge(leaf, others)
        if len(_verdicts) >= _REMEMBERED:
            _verdicts.clear()
        _verdicts[digest] = verdict
    if verdict.fault is None and not verdict.identities.isdisjoint(revoked):
        return "The client certificate is revoked."
    return verdict.fault


def _judge(leaf: bytes, others: tuple[bytes, ...] | bytes) -> _Verdict:
    if 1 + (others.count(_PEM_MARK) if isinstance(others, bytes) else len(others)) > _MOST_CERTIFICATES:
        return _Verdict(f"The client sent more than {_MOST_CERTIFICATES} certificates.", frozenset())
    try:
        if isinstance(others, bytes):
            certificates = x509.load_pem_x509_certificates(leaf + b"\n" + others)
        else:
            certificates = [x509.load_der_x509_certificate(content) for content in (leaf, *others)]
        check_peer(certificates[0], certificates[1:])
        identities = frozenset(map(identity, certificates))
    except SealserveError as error:
        return _Verdict(error.message[:_LONGEST_FAULT], frozenset())
    except Exception:  # noqa: BLE001  # arbitrary input, and cryptography's errors have no common base
        return _Verdict("The client certificate cannot be read.", frozenset())
    return _Verdict(None, identities)


def fault_of_properties(properties: Mapping[bytes, Sequence[bytes]], revoked: Revoked = frozenset()) -> str | None:
    """Return why gRPC's peer is not accepted, or None if it is, or if it has no certificate.

    Args:
        properties: gRPC's authentication context.
        revoked: The certificates that are rejected.
    """
    leaf = properties.get(_LEAF)
    return None if not leaf else fault_of(leaf[0], properties.get(_OTHERS, [b""])[0], revoked)


def fault_of_connection(connection: Any, revoked: Revoked = frozenset()) -> str | None:
    """Return why the peer of a connection of Python's ``ssl`` is not accepted, or None if it is.

    A peer without certificates is not accepted. A resumed session can have none, and would not be verified.

    Args:
        connection: CPython's internal object of `ssl.SSLObject`. Python 3.13 has a public method for the chain.
        revoked: The certificates that are rejected.
    """
    chain = connection.get_unverified_chain()
    if not chain:
        return "The client did not present a certificate."
    leaf, *others = (certificate.public_bytes(_DER) for certificate in chain)
    return fault_of(leaf, tuple(others), revoked)
