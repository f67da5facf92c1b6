"""TLS for HTTP, from the same ``ssl.cfg`` as gRPC's.

Python's ``ssl`` reads a private key from a file only, so the key is in one for a moment: one without a name, in memory,
where the system has such, else one that only this user can read, which is gone right afterwards (inside an enclave
every file that is not mounted is the enclave's memory).
"""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sealserve.pki.ssl_config import SslConfig


def server_context(settings: SslConfig) -> ssl.SSLContext:
    """Return Python's form of the settings; with ``client_verify``, a client without a certificate is turned away."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if settings.client_verify and settings.custom_ca is not None:
        context.load_verify_locations(cadata=settings.custom_ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    renew(context, settings)
    return context


def renew(context: ssl.SSLContext, settings: SslConfig) -> None:
    """Use the certificate of ``settings`` for connections that come from now on."""
    with _secret_file(settings.server_key.reveal() + b"\n" + settings.server_cert) as path:
        context.load_cert_chain(path)


@contextmanager
def _secret_file(content: bytes) -> Iterator[Path]:
    try:
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tls"
            path.touch(0o600)
            path.write_bytes(content)
            yield path
        return
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
