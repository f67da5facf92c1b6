"""TLS for HTTP, from the same ``ssl.cfg`` as gRPC's, and renewed as a whole while the server runs."""

import ssl
from typing import Any

from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.wire.tls_libraries import openssl_context


class RenewableContext(ssl.SSLContext):
    """A context that lets another one serve each new connection.

    A changed context would keep its session ticket keys: a client whose authority was withdrawn could resume a session,
    and OpenSSL does not verify certificates then. A new context has new keys and a new store of authorities.

    `asyncio` calls `wrap_bio` for each connection, with the context that the port was opened with.
    """

    current: ssl.SSLContext

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection in memory with the current settings."""
        return self.current.wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Begin a connection on a socket with the current settings."""
        return self.current.wrap_socket(*arguments, **options)


def server_context(settings: SslConfig) -> RenewableContext:
    """Return Python's form of the settings; see `openssl_context`."""
    context = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
    context.current = openssl_context(settings)
    return context


def renew(context: RenewableContext, settings: SslConfig) -> None:
    """Use ``settings``, all of them, for connections that come from now on."""
    context.current = openssl_context(settings)
