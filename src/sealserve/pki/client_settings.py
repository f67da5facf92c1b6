"""``clients.cfg``: the settings for client certificates of an attested server, which has no TLS key in a file.

The format is ``ssl.cfg``'s with only the fields ``custom_ca`` and ``client_verify``. Revocation lists are in
``custom_ca``, as in ``ssl.cfg``.
"""

from dataclasses import dataclass
from typing import Final

from sealserve.pki.codes import PkiCode
from sealserve.pki.revocation import split_lists
from sealserve.pki.ssl_config import SslConfig, parse_message, render_message
from sealserve.secret import SecretBytes

CLIENT_SETTINGS_PATH: Final = "tls/clients.cfg"
"""The path of the sealed settings in a release for attested serving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The settings for client certificates. The default accepts every client (one-way TLS).

    Args:
        custom_ca: See `sealserve.pki.ssl_config.SslConfig`.
        client_verify: See `sealserve.pki.ssl_config.SslConfig`.
        revocation_lists: See `sealserve.pki.ssl_config.SslConfig`.
    """

    custom_ca: bytes | None = None
    client_verify: bool = False
    revocation_lists: bytes | None = None

    def with_key(self, key: SecretBytes, chain: bytes) -> SslConfig:
        """Return complete TLS settings with a server's key and certificate.

        Args:
            key: The private key, PEM.
            chain: The certificate chain, PEM, leaf first.

        Raises:
            SealserveError: The errors of `SslConfig`.
        """
        return SslConfig(
            server_key=key,
            server_cert=chain,
            custom_ca=self.custom_ca,
            client_verify=self.client_verify,
            revocation_lists=self.revocation_lists,
        )

    def render(self) -> bytes:
        """Return the content of ``clients.cfg``. It is not secret."""
        return render_message(
            custom_ca=(self.custom_ca or b"") + (self.revocation_lists or b""), client_verify=self.client_verify
        )


def parse_client_settings(content: bytes, *, source: str = "clients.cfg") -> ClientSettings:
    """Parse the content of ``clients.cfg``.

    Args:
        content: The content of the file.
        source: The file's name in errors. Errors never contain any of the content.

    Raises:
        InputError: `ssl-config.syntax` if the content is not an SSLConfig in protobuf text format.
        InputError: `ssl-config.server-key` if it contains a key or a certificate of a server.
    """
    message = parse_message(content, source=source)
    if message.server_key or message.server_cert:
        raise PkiCode.SSL_CONFIG_SERVER_KEY.error(
            f"{source} contains server_key or server_cert, but the enclave creates the TLS key of an attested server.",
            hint="Use only the fields custom_ca and client_verify.",
        )
    authorities, lists = split_lists(message.custom_ca.encode())
    return ClientSettings(
        custom_ca=authorities or None, client_verify=message.client_verify, revocation_lists=lists or None
    )
