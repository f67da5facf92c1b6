"""What binds evidence to a moment, to a TLS session and to keys: report data, nonces, and the exporter of TLS.

A quote proves only that an enclave chose 64 bytes of report data. These functions define the bytes. Each input has a
fixed length, and each purpose has its own label, so that no value is valid for another purpose:

- **Session report data** is for the broker. The nonce is the broker's, so the quote is newer than the nonce. The
  exporter is a secret of one TLS session, so the quote cannot be shown in another session, not even by a program that
  stole a TLS key. The digest covers the keyset.
- **Service report data** is for users. It covers the keyset only. One quote serves all users. Freshness comes from the
  nonce's signature.
- **The nonce's signature** by the identity key proves that the holder of the identity key is running now. It covers the
  TLS key too, so that a signature for one enclave's connection is not valid for another TLS key.

Source: RFC 8446 section 7.5 and RFC 5705 (exporters); Intel SGX REPORTDATA (64 bytes, see `sealserve.sgx.report`).
"""

import hashlib
import secrets
from typing import Final

from sealserve.attestation.claims import REPORT_DATA_SIZE

PROTOCOL: Final = b"sealserve-attest/1"
"""The name of the protocol between enclave and broker in ALPN."""
EXPORTER_LABEL: Final = b"EXPERIMENTAL sealserve-attest/1"
"""The label of the exporter. Labels that begin with EXPERIMENTAL need no registration (RFC 5705 section 4)."""
EXPORTER_SIZE: Final = 32
NONCE_SIZE: Final = 32
SESSION_LABEL: Final = b"sealserve-attest/1 session report data\n"
SERVICE_LABEL: Final = b"sealserve-attest/1 service report data\n"
NONCE_LABEL: Final = b"sealserve-attest/1 user nonce\n"

_DIGEST_SIZE: Final = 32


def new_nonce() -> bytes:
    """Return a nonce of 32 random bytes. Use it for one conversation."""
    return secrets.token_bytes(NONCE_SIZE)


def session_report_data(*, nonce: bytes, exporter: bytes, keyset_digest: bytes) -> bytes:
    """Return the 64 bytes of report data for the broker.

    Args:
        nonce: The broker's nonce, 32 bytes.
        exporter: The exporter of this TLS session with `EXPORTER_LABEL` and the nonce as its context, 32 bytes.
        keyset_digest: SHA-256 of the keyset.

    Raises:
        ValueError: An argument has another length.
    """
    _check_sizes((nonce, NONCE_SIZE), (exporter, EXPORTER_SIZE), (keyset_digest, _DIGEST_SIZE))
    return _report_data(SESSION_LABEL + nonce + exporter + keyset_digest)


def service_report_data(keyset_digest: bytes) -> bytes:
    """Return the 64 bytes of report data for users.

    Args:
        keyset_digest: SHA-256 of the keyset.

    Raises:
        ValueError: The argument has another length.
    """
    _check_sizes((keyset_digest, _DIGEST_SIZE))
    return _report_data(SERVICE_LABEL + keyset_digest)


def signed_nonce(*, nonce: bytes, tls_key_digest: bytes) -> bytes:
    """Return the bytes that the identity key signs for a user.

    Args:
        nonce: The user's nonce, 32 bytes.
        tls_key_digest: SHA-256 of the SubjectPublicKeyInfo of the TLS key.

    Raises:
        ValueError: An argument has another length.
    """
    _check_sizes((nonce, NONCE_SIZE), (tls_key_digest, _DIGEST_SIZE))
    return NONCE_LABEL + nonce + tls_key_digest


def _report_data(content: bytes) -> bytes:
    return hashlib.sha256(content).digest().ljust(REPORT_DATA_SIZE, b"\0")


def _check_sizes(*expected: tuple[bytes, int]) -> None:
    for value, size in expected:
        if len(value) != size:
            raise ValueError(f"expected {size} bytes, got {len(value)}")
