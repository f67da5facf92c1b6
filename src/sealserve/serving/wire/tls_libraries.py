"""The server's two TLS libraries, with the same settings: OpenSSL for HTTP, and BoringSSL inside gRPC.

If only one library accepted the settings, some ports would use them and others would not. So `check_both` loads them
into both libraries.

Python's ``ssl`` reads a private key only from a file, so the key is in a file for a moment: see `memory_file`. Inside
an enclave, every file outside of the mounts is in the enclave's memory.
"""

import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.errors import SealserveError
from sealserve.memory_file import memory_file
from sealserve.pki.certificate import parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.pki.revocation import Revoked
from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.codes import ServingCode
from sealserve.serving.wire.peers import fault_of_connection

_PROBE: Final = "127.0.0.1:0"
_OPTIONS: Final = [("grpc.so_reuseport", 0)]


def _checked(revoked: Revoked) -> type[ssl.SSLObject]:
    """Return a connection class that fails after the handshake if gRPC would not accept the client."""

    class CheckedConnection(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            fault = fault_of_connection(self._sslobj, revoked)  # type: ignore[attr-defined]  # the stubs leave it out
            if fault is not None:
                raise ssl.SSLError(fault)

    return CheckedConnection


def check_both(settings: SslConfig, *, source: str) -> None:
    """Check that both libraries can use the settings.

    Args:
        settings: The settings.
        source: The settings' name in error messages.

    Raises:
        InputError: `certificate.key-unreadable`: A library rejects the key or the certificate chain.
        InputError: `server.client-authority`: A library rejects ``custom_ca``.
    """
    openssl_context(settings, source=source)
    _check_boring(settings, source=source)


def openssl_context(settings: SslConfig, *, source: str = "server_cert") -> ssl.SSLContext:
    """Return an OpenSSL context with the settings. With ``client_verify``, clients without a certificate are rejected.

    Raises:
        InputError: `certificate.key-unreadable`: OpenSSL rejects the key or the certificate chain.
        InputError: `server.client-authority`: OpenSSL rejects ``custom_ca``.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As in gRPC: an intermediate authority in custom_ca is enough, and Python's own strict rules do not apply.
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["http/1.1"])
    if settings.client_verify and settings.custom_ca is not None:
        authorities = b"".join(
            certificate.public_bytes(Encoding.DER) for certificate in parse_chain(settings.custom_ca)
        )
        try:
            context.load_verify_locations(cadata=authorities)
        except ssl.SSLError as error:
            raise _authority_fault(source, f"OpenSSL: {error.reason}") from error
        context.verify_mode = ssl.CERT_REQUIRED
        context.sslobject_class = _checked(settings.revoked)
        # A session that is resumed from a ticket has no certificates to check. A session in OpenSSL's cache (TLS 1.2)
        # still has them.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    with ExitStack() as files:
        chain = files.enter_context(memory_file(settings.server_cert))
        key = files.enter_context(memory_file(settings.server_key.reveal()))
        try:
            # For an encrypted key, OpenSSL would ask for a passphrase on the terminal. This callback fails instead.
            context.load_cert_chain(chain, key, password=lambda: b"")
        except ssl.SSLError as error:
            raise _key_fault(source, f"OpenSSL: {error.reason}") from error
    return context


def _check_boring(settings: SslConfig, *, source: str) -> None:
    """Check the settings by letting gRPC create a TLS port. After a failure, find the cause by omitting ``custom_ca``.

    BoringSSL has no interface in Python, and gRPC loads keys only for a port. The port is on the loopback interface. It
    is closed immediately, and accepts no connection.
    """
    if not settings.custom_ca:
        if not _can_serve(settings, None) and _can_listen():
            raise _key_fault(source, "BoringSSL (gRPC)")
    elif not _can_serve(settings, settings.custom_ca) and _can_listen():
        if _can_serve(settings, None):
            raise _authority_fault(source, "BoringSSL (gRPC)")
        raise _key_fault(source, "BoringSSL (gRPC)")


def _can_serve(settings: SslConfig, custom_ca: bytes | None) -> bool:
    pair = settings.server_key.reveal(), settings.server_cert
    return _probe(grpc.ssl_server_credentials([pair], custom_ca, require_client_auth=custom_ca is not None))


def _can_listen() -> bool:
    """Return whether a port without TLS works. If not, the machine is the cause of a failure, not the key."""
    return _probe(None)


def _probe(credentials: grpc.ServerCredentials | None) -> bool:
    server = grpc.server(ThreadPoolExecutor(1), options=_OPTIONS)
    try:
        if credentials is None:
            return bool(server.add_insecure_port(_PROBE))
        return bool(server.add_secure_port(_PROBE, credentials))
    except RuntimeError:
        return False
    finally:
        server.start()  # only a started server can be stopped, which closes the port
        server.stop(None).wait()


def _key_fault(source: str, what: str) -> SealserveError:
    return PkiCode.CERTIFICATE_KEY_UNREADABLE.error(
        f"The key and certificate chain of {source} cannot be used for TLS: rejected by {what}.",
        hint="Issue a certificate for a P-256 key, signed with SHA-256.",
    )


def _authority_fault(source: str, what: str) -> SealserveError:
    return ServingCode.SERVER_CLIENT_AUTHORITY.error(
        f"custom_ca of {source} cannot be used for TLS: rejected by {what}.",
        hint="Give the authority's certificate again, in PEM form.",
    )
