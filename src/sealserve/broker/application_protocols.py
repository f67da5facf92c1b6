"""The protocols on the broker's port, which the client selects by ALPN (RFC 7301).

- No ALPN extension: Gramine's secret provisioning protocol, with exactly the bytes of Gramine's own server.
- ``sealserve-token/1``: an attestation result and no key, see `sealserve.attestation.result_request`. TLS 1.3 only.
- ``sealserve-attest/1``: key, certificate and attestation result for an enclave that created its own TLS key, see
  `sealserve.attestation.attest_conversation`. TLS 1.3 only. The peer presents no certificate.

The broker ends the handshake with the alert ``no_application_protocol`` if it supports none of the client's protocols.
"""

from collections.abc import Sequence
from typing import Any, Final

from OpenSSL import SSL

from sealserve.attestation import result_request, session_binding

GRAMINE: Final = b""
"""The value for a session without ALPN."""
RESULTS: Final = result_request.PROTOCOL
ATTEST: Final = session_binding.PROTOCOL
"""The protocol whose evidence is bound to the TLS session."""


class UnsupportedProtocolError(Exception):
    """The client offers only unsupported protocols. OpenSSL sends the alert; nothing catches this class."""


def select_protocols(context: SSL.Context, supported: Sequence[bytes]) -> None:
    """Let the server context ``context`` select the first supported protocol of a client.

    Args:
        context: A server context.
        supported: The supported protocols, in the order of the broker's preference.
    """

    def select(connection: SSL.Connection, offered: list[bytes]) -> bytes:
        # TLS 1.2 is only for Gramine's older clients. Other protocols can rely on the properties of TLS 1.3.
        if connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
            for protocol in supported:
                if protocol in offered:
                    if protocol == ATTEST:
                        # The evidence is not in a certificate. OpenSSL requests one after this callback.
                        connection.set_verify(SSL.VERIFY_NONE)
                    return protocol
        raise UnsupportedProtocolError

    context.set_alpn_select_callback(select)
    # pyOpenSSL answers an exception of the callback with the alert. It then stores the exception in a list of the
    # context and raises it in the connection that calls OpenSSL next. This can be the connection of another peer, which
    # would lose the data that it just received. The alert is sufficient, so the list stays empty.
    helper: Any = context._alpn_select_helper  # noqa: SLF001  # no public name
    helper._problems = _Discarded()  # noqa: SLF001


class _Discarded(list[Exception]):
    """A list that stays empty."""

    def append(self, _exception: Exception) -> None:
        """Discard the exception."""
