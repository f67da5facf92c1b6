"""TLS for HTTP, from the same ``ssl.cfg`` as for gRPC. All settings are replaced together when the file changes."""

import contextlib
import ssl
from typing import Any, Final

from sealserve.errors import SealserveError
from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.wire.tls_libraries import openssl_context

_SESSIONS: Final = 16
"""Maximum connections that one context serves if client certificates are required."""


class RenewableContext(ssl.SSLContext):
    """A context that serves each new connection with a separate, replaceable context.

    If the settings of a context were changed, it would keep its session ticket keys. A client of a removed authority
    could then resume a session, for which OpenSSL does not verify certificates. A new context has new keys and a new
    store of authorities.

    Python cannot turn off OpenSSL's cache of TLS 1.2 sessions, which stores the certificates of 20480 clients. So if
    client certificates are required, a context serves only a few connections. Its cache is freed with the last of them.

    `asyncio` calls `wrap_bio` for each connection, with the context that the port was opened with.
    """

    current: ssl.SSLContext
    _settings: SslConfig
    _left: int

    def use(self, settings: SslConfig) -> None:
        """Use all of ``settings`` for new connections."""
        self.current = openssl_context(settings)
        self._settings, self._left = settings, _SESSIONS

    def _serving(self) -> ssl.SSLContext:
        if self._settings.client_verify:
            if self._left <= 0:
                with contextlib.suppress(OSError, SealserveError):  # no free descriptor: keep the previous one
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
    """Return a context with the settings; see `openssl_context`."""
    context = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
    context.use(settings)
    return context


def renew(context: RenewableContext, settings: SslConfig) -> None:
    """Use all of ``settings`` for new connections."""
    context.use(settings)
