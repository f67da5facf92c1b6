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
"""Where a release has these settings, sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SslConfig:
    """A model server's TLS settings. One that exists is complete, and its key belongs to its certificate.

    Args:
        server_key: The server's private key, PEM.
        server_cert: Its certificate chain, PEM.
        custom_ca: The authorities that sign clients' certificates, PEM.
        client_verify: Whether each client must show a certificate (two-way TLS).
        revocation_lists: The certificates of clients that are rejected: lists that ``custom_ca``'s authorities signed,
            PEM. In the file they are a part of ``custom_ca``. TensorFlow Serving's binary ignores them there.

    Attributes:
        revoked: What the lists revoke.

    Raises:
        InputError: `ssl-config.missing-field`: No key or no certificate.
        InputError: `ssl-config.no-client-authority`: ``client_verify`` without ``custom_ca``.
        InputError: `certificate.unreadable`: ``server_cert`` or ``custom_ca`` is no PEM certificate.
        InputError: `certificate.key-unreadable`: ``server_key`` is no PEM key without a passphrase, or of a kind that a
            TLS library rejects.
        InputError: `certificate.unsupported`: A certificate has a key of a kind that a TLS library rejects.
        InputError: `ssl-config.revocation-list`: A list cannot be used.
        KeyMismatchError: ``server_key`` belongs to another certificate.
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
                    f"The TLS settings have no {name}.", hint="Without it the server would have no TLS."
                )
        check_key(self.server_key, self.server_cert, source="server_cert")
        check_tls_key(self.server_key, self.server_cert, source="server_cert")
        check_issuers(parse_chain(self.server_cert, source="server_cert")[1:], source="server_cert")
        if self.custom_ca:
            check_issuers(parse_chain(self.custom_ca, source="custom_ca"), source="custom_ca")
        elif self.client_verify:
            raise PkiCode.SSL_CONFIG_NO_CLIENT_AUTHORITY.error(
                "The TLS settings have client_verify without custom_ca: no client could connect.",
                hint="Give the authority that signs the users' certificates.",
            )
        # Lists among the authorities count as well: one that is not PEM as TLS libraries read it is an error.
        lists = (self.custom_ca or b"") + (self.revocation_lists or b"")
        if REVOCATION_LIST_MARK in lists:
            authorities = parse_chain(self.custom_ca, source="custom_ca") if self.custom_ca else ()
            object.__setattr__(self, "revoked", read_lists(lists, authorities, source="custom_ca"))

    def render(self) -> SecretBytes:
        """Return the file's content."""
        message = SSLConfig(
            server_key=_text(self.server_key.reveal()),
            server_cert=_text(self.server_cert),
            custom_ca=_text((self.custom_ca or b"") + (self.revocation_lists or b"")),
            client_verify=self.client_verify,
        )
        return SecretBytes(text_format.MessageToString(message).encode())


def parse(content: bytes | SecretBytes, *, source: str = "ssl.cfg") -> SslConfig:
    """Return the settings that ``content`` describes.

    Args:
        content: The file's bytes.
        source: What to call it in errors. No error and no traceback repeats anything of the content.

    Raises:
        InputError: `ssl-config.syntax`: No SSLConfig in protobuf text format.
        InputError: As `SslConfig`.
    """
    raw = content.reveal() if isinstance(content, SecretBytes) else content
    message, where = _parse_text(raw)
    if message is None:  # raised here, not below: a chained ParseError would quote the key
        raise PkiCode.SSL_CONFIG_SYNTAX.error(
            f"{source} is no SSLConfig in protobuf text format ({where}).",
            hint="Its fields are server_key, server_cert, custom_ca and client_verify.",
        )
    authorities, lists = split_lists(message.custom_ca.encode())
    return SslConfig(
        server_key=SecretBytes(message.server_key.encode()),
        server_cert=message.server_cert.encode(),
        custom_ca=authorities or None,
        client_verify=message.client_verify,
        revocation_lists=lists or None,
    )


def _text(pem: bytes) -> str:
    """Return PEM as text. It is ASCII, but for what others may have written between the blocks."""
    return pem.decode("utf-8", errors="replace")


def _parse_text(raw: bytes) -> tuple[SSLConfig | None, str]:
    """Return the message, or None and where the text is wrong."""
    try:
        return text_format.Parse(raw.decode("utf-8"), SSLConfig()), ""
    except text_format.ParseError as error:
        return None, f"line {error.GetLine()}, column {error.GetColumn()}"
    except UnicodeDecodeError as error:
        return None, f"byte {error.start} is not UTF-8"
