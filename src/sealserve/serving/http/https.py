"""TLS for HTTP, from the same ``ssl.cfg`` as gRPC's, and renewed as a whole while the server runs."""

import contextlib
import ssl
from typing import Any, Final

from sealserve.errors import SealserveError
from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.wire.tls_libraries import openssl_context

_SESSIONS: Final = 16
"""Connections that one context serves if clients show certificates."""


class RenewableContext(ssl.SSLContext):
    """A context that lets another one serve each new connection.

    A changed context would keep its session ticket keys: a client whose authority was withdrawn could resume a session,
    and OpenSSL does not verify certificates then. A new context has new keys and a new store of authorities.

    Python cannot turn off OpenSSL's cache of TLS 1.2 sessions, which keeps the certificates of 20480 clients. So if
    clients show certificates, a context serves a few connections only: its cache ends with the last of them.

    `asyncio` calls `wrap_bio` for each connection, with the context that the port was opened with.
    """

    current: ssl.SSLContext
    _settings: SslConfig
    _left: int

    def use(self, settings: SslConfig) -> None:
        """Use ``settings``, all of them, for connections that come from now on."""
        self.current = openssl_context(settings)
        self._settings, self._left = settings, _SESSIONS

    def _serving(self) -> ssl.SSLContext:
        if self._settings.client_verify:
            if self._left <= 0:
                with contextlib.suppress(OSError, SealserveError):  # without a free descriptor, the former one goes on
                    self.use(self._settings)
            self._left -= 1
        return self.current

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection in memory with the current settings."""
        return self._serving().wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Begin a connection on a socket with the current settings."""
        return self._serving().wrap_socket(*arguments, **options)


def server_context(settings: SslConfig) -> RenewableContext:
    """Return Python's form of the settings; see `openssl_context`."""
    context = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
    context.use(settings)
    return context


def renew(context: RenewableContext, settings: SslConfig) -> None:
    """Use ``settings``, all of them, for connections that come from now on."""
    context.use(settings)
