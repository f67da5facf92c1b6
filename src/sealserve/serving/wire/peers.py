"""Which client certificates are accepted, beyond what each TLS library verifies: the same on every port.

A library verifies the client's certificates in the handshake. This check runs after that, on the same certificates.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography import x509

from sealserve.errors import SealserveError
from sealserve.pki.tls_material import check_peer

_REMEMBERED: Final = 4096
_DER: Final = 2
"""``_ssl.ENCODING_DER``."""
_LEAF: Final = b"x509_pem_cert"
_OTHERS: Final = b"x509_pem_cert_chain"


_verdicts: dict[bytes, str | None] = {}


def fault_of(leaf: bytes, others: tuple[bytes, ...] | bytes = b"") -> str | None:
    """Return why a client is not accepted, or None if it is.

    The verdict is remembered by a digest, since gRPC asks for each call and a client may send 100 KB of certificates.

    Args:
        leaf: The client's certificate, DER or PEM.
        others: What it sent beside it: DER certificates, or PEM blocks.
    """
    parts = (others,) if isinstance(others, bytes) else others
    digest = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in (leaf, *parts))).digest()
    try:
        return _verdicts[digest]
    except KeyError:
        fault = _judge(leaf, others)
    if len(_verdicts) >= _REMEMBERED:
        _verdicts.clear()
    _verdicts[digest] = fault
    return fault


def _judge(leaf: bytes, others: tuple[bytes, ...] | bytes) -> str | None:
    try:
        if isinstance(others, bytes):
            certificates = x509.load_pem_x509_certificates(leaf + b"\n" + others)
        else:
            certificates = [x509.load_der_x509_certificate(content) for content in (leaf, *others)]
        check_peer(certificates[0], certificates[1:])
    except SealserveError as error:
        return error.message
    except Exception:  # noqa: BLE001  # a client sends what it likes, and cryptography has many errors without a base
        return "The client certificate cannot be read."
    return None


def fault_of_properties(properties: Mapping[bytes, Sequence[bytes]]) -> str | None:
    """Return why gRPC's peer is not accepted, or None if it is, or if it has no certificate.

    Args:
        properties: gRPC's authentication context.
    """
    leaf = properties.get(_LEAF)
    return None if not leaf else fault_of(leaf[0], properties.get(_OTHERS, [b""])[0])


def fault_of_connection(connection: Any) -> str | None:
    """Return why the peer of a connection of Python's ``ssl`` is not accepted, or None if it is.

    Args:
        connection: CPython's own object below `ssl.SSLObject`. Python 3.13 has a public method for the chain.
    """
    chain = connection.get_unverified_chain()
    if not chain:
        return None
    leaf, *others = (certificate.public_bytes(_DER) for certificate in chain)
    return fault_of(leaf, tuple(others))
