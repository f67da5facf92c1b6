"""``ssl.cfg``: TensorFlow Serving's TLS settings, with the server's private key.

Source: tensorflow/serving, ``tensorflow_serving/config/ssl_config.proto`` (fields) and
``tensorflow_serving/model_servers/server.cc``, ``BuildServerCredentialsFromSSLConfigFile`` (meaning).
"""

from dataclasses import dataclass, field
from typing import Final

from google.protobuf import text_format

from sealserve.pki.certificate import check_key, parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.pki.revocation import REVOCATION_LIST_MARK, Revoked, read_lists, split_lists
from sealserve.pki.ssl_config_pb2 import SSLConfig
from sealserve.pki.tls_material import check_issuers, check_tls_key
from sealserve.secret import SecretBytes

SSL_CONFIG_PATH: Final = "tls/ssl.cfg"
"""The path of the sealed TLS settings in a release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SslConfig:
    """A model server's TLS settings. An instance is always complete, and its key matches its certificate.

    Args:
        server_key: The server's private key, PEM.
        server_cert: The server's certificate chain, PEM.
        custom_ca: The CA certificates that sign client certificates, PEM.
        client_verify: Whether clients must present a certificate (two-way TLS).
        revocation_lists: Revocation lists for client certificates, signed by the CAs in ``custom_ca``, PEM. In the file
            they are part of ``custom_ca``. TensorFlow Serving's binary ignores them there.

    Attributes:
        revoked: The certificates that the lists revoke.

    Raises:
        InputError: `ssl-config.missing-field` if the key or the certificate is missing.
        InputError: `ssl-config.no-client-authority` if ``client_verify`` is set without ``custom_ca``.
        InputError: `certificate.unreadable` if ``server_cert`` or ``custom_ca`` is not a PEM certificate.
        InputError: `certificate.key-unreadable` if ``server_key`` is not an unencrypted PEM key, or has a type that a
            TLS library rejects.
        InputError: `certificate.unsupported` if a certificate has a key of a type that a TLS library rejects.
        InputError: `ssl-config.revocation-list` if a revocation list is invalid.
        KeyMismatchError: ``server_key`` does not match the certificate.
    """

    server_key: SecretBytes
    server_cert: bytes
    custom_ca: bytes | None = None
    client_verify: bool = False
    revocation_lists: bytes | None = None
    revoked: Revoked = field(init=False, repr=False, default=frozenset())

    def __post_init__(self) -> None:
        for name in ("server_key", "server_cert"):
            if not len(getattr(self, name)):
                raise PkiCode.SSL_CONFIG_MISSING_FIELD.error(
                    f"The TLS settings lack the field {name}.",
                    hint=f"Set {name}. TensorFlow Serving would otherwise serve without TLS.",
                )
        check_key(self.server_key, self.server_cert, source="server_cert")
        check_tls_key(self.server_key, self.server_cert, source="server_cert")
        check_issuers(parse_chain(self.server_cert, source="server_cert")[1:], source="server_cert")
        if self.custom_ca:
            check_issuers(parse_chain(self.custom_ca, source="custom_ca"), source="custom_ca")
        elif self.client_verify:
            raise PkiCode.SSL_CONFIG_NO_CLIENT_AUTHORITY.error(
                "The TLS settings set client_verify without custom_ca, so every client would be rejected.",
                hint="Set custom_ca to the certificate of the CA that signs the users' certificates.",
            )
        # Revocation lists in custom_ca count as well. A list that TLS libraries cannot read as PEM is an error.
        lists = (self.custom_ca or b"") + (self.revocation_lists or b"")
        if REVOCATION_LIST_MARK in lists:
            authorities = parse_chain(self.custom_ca, source="custom_ca") if self.custom_ca else ()
            object.__setattr__(self, "revoked", read_lists(lists, authorities, source="custom_ca"))

    def render(self) -> SecretBytes:
        """Return the content of ``ssl.cfg``."""
        return SecretBytes(
            render_message(
                server_key=self.server_key.reveal(),
                server_cert=self.server_cert,
                custom_ca=(self.custom_ca or b"") + (self.revocation_lists or b""),
                client_verify=self.client_verify,
            )
        )


def parse(content: bytes | SecretBytes, *, source: str = "ssl.cfg") -> SslConfig:
    """Parse the content of ``ssl.cfg``.

    Args:
        content: The content of the file.
        source: The file's name in errors. Errors and tracebacks never contain any of the content.

    Raises:
        InputError: `ssl-config.syntax` if the content is not an SSLConfig in protobuf text format.
        InputError: The errors of `SslConfig`.
    """
    message = parse_message(content, source=source)
    authorities, lists = split_lists(message.custom_ca.encode())
    return SslConfig(
        server_key=SecretBytes(message.server_key.encode()),
        server_cert=message.server_cert.encode(),
        custom_ca=authorities or None,
        client_verify=message.client_verify,
        revocation_lists=lists or None,
    )


def parse_message(content: bytes | SecretBytes, *, source: str) -> SSLConfig:
    """Parse an SSLConfig in protobuf text format. Its fields are not checked.

    Args:
        content: The content of the file.
        source: The file's name in errors. Errors and tracebacks never contain any of the content.

    Raises:
        InputError: `ssl-config.syntax` if the content is not an SSLConfig in protobuf text format.
    """
    raw = content.reveal() if isinstance(content, SecretBytes) else content
    message, where = _parse_text(raw)
    if message is None:  # raised here, not in _parse_text: a chained ParseError would quote the key
        raise PkiCode.SSL_CONFIG_SYNTAX.error(
            f"{source} is not an SSLConfig message in protobuf text format ({where}).",
            hint="Use only the fields server_key, server_cert, custom_ca and client_verify.",
        )
    return message


def render_message(
    *, server_key: bytes = b"", server_cert: bytes = b"", custom_ca: bytes = b"", client_verify: bool
) -> bytes:
    """Return an SSLConfig in protobuf text format. See `SslConfig` for the fields."""
    message = SSLConfig(
        server_key=_text(server_key),
        server_cert=_text(server_cert),
        custom_ca=_text(custom_ca),
        client_verify=client_verify,
    )
    return text_format.MessageToString(message).encode()


def _text(pem: bytes) -> str:
    """Return PEM as text. PEM is ASCII, except for text that other tools may have written between the blocks."""
    return pem.decode("utf-8", errors="replace")


def _parse_text(raw: bytes) -> tuple[SSLConfig | None, str]:
    """Return the message, or `None` and the position of the syntax error."""
    try:
        return text_format.Parse(raw.decode("utf-8"), SSLConfig()), ""
    except text_format.ParseError as error:
        return None, f"line {error.GetLine()}, column {error.GetColumn()}"
    except UnicodeDecodeError as error:
        return None, f"byte {error.start} is not UTF-8"
