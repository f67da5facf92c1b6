"""The client's settings for Python's ``ssl``: REST, and connections that ask for evidence."""

import ssl
from contextlib import ExitStack
from datetime import datetime

from sealserve.memory_file import memory_file
from sealserve.pki.tls_material import ordered_authorities, ordered_chain
from sealserve.secret import SecretBytes


def tls_context(ca: bytes | None, certificate: bytes | None, key: SecretBytes | None, now: datetime) -> ssl.SSLContext:
    """Return the settings, without ALPN. Like gRPC, they trust only the given CA, which may be an intermediate one.

    Args:
        ca: The certificate of the CA, PEM. None: the service's certificate is not checked, so the caller must check it.
        certificate: With two-way TLS, the user's certificate and its chain, PEM.
        key: With two-way TLS, the user's private key, PEM.
        now: The current time.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=ordered_authorities(ca, now).decode("ascii"))
    if certificate is not None and key is not None:
        with ExitStack() as files:
            chain = files.enter_context(memory_file(ordered_chain(certificate, now)))
            private_key = files.enter_context(memory_file(key.reveal()))
            context.load_cert_chain(chain, private_key, password=lambda: b"")
    return context
