"""Error codes of the package `sealserve.pki`.

An error that code catches by type, or that carries data, has its own class. That class defines the code.
"""

from sealserve.errors import ErrorCode, InputError, VerificationError


class PkiCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    ADMINISTRATOR_CERTIFICATE = "administrator.certificate", VerificationError
    """The client's certificate is not the certificate of one of the broker's administrators."""
    ADMINISTRATOR_NAME = "administrator.name", InputError
    """The name is not a valid name of an administrator."""
    ADMINISTRATOR_REVOCATION_LIST = "administrator.revocation-list", VerificationError
    """The revocation list of the administrators is damaged, or another authority signed it."""
    ADMINISTRATOR_REVOKED = "administrator.revoked", VerificationError
    """The administrator's certificate is revoked."""

    AUTHORITY_INVALID_NAME = "authority.invalid-name", InputError
    """The certificate lacks DNS names and IP addresses, or one of them is invalid."""
    AUTHORITY_KEY_MISMATCH = "authority.key-mismatch", InputError
    """The stored private key does not belong to the certificate of the issuing authority."""
    AUTHORITY_NAME_NOT_PERMITTED = "authority.name-not-permitted", InputError
    """The authority's own name constraints exclude the name, so every peer would reject the certificate."""
    AUTHORITY_NO_INTERMEDIATE = "authority.no-intermediate", InputError
    """The authority must not sign another authority. Versions before attested serving created such authorities."""
    AUTHORITY_UNREADABLE = "authority.unreadable", InputError
    """The folder does not contain a readable certificate authority of sealserve."""
    AUTHORITY_WRONG_PURPOSE = "authority.wrong-purpose", InputError
    """The authority must not sign this kind of certificate. The users' CA signs clients, the other CAs sign servers."""

    CERTIFICATE_CHAIN = "certificate.chain", VerificationError
    """The certificate does not lead to a trusted root. An intermediate certificate may be missing in the file."""
    CERTIFICATE_EXPIRED = "certificate.expired", VerificationError
    """The certificate has expired."""
    CERTIFICATE_KEY_UNREADABLE = "certificate.key-unreadable", InputError
    """The file does not contain an unencrypted PEM private key."""
    CERTIFICATE_NAME = "certificate.name", InputError
    """The certificate is for other names than the service's, or not for servers."""
    CERTIFICATE_UNREADABLE = "certificate.unreadable", InputError
    """The file does not contain a PEM certificate."""
    CERTIFICATE_UNSUPPORTED = "certificate.unsupported", InputError
    """A certificate uses a key type that one of the TLS libraries does not support."""

    SSL_CONFIG_MISSING_FIELD = "ssl-config.missing-field", InputError
    """The TLS settings (ssl.cfg) lack the private key or the certificate."""
    SSL_CONFIG_NO_CLIENT_AUTHORITY = "ssl-config.no-client-authority", InputError
    """The TLS settings require client certificates but name no authority that signs them."""
    SSL_CONFIG_REVOCATION_LIST = "ssl-config.revocation-list", InputError
    """A certificate revocation list is damaged, of the wrong kind, or not signed by an authority in the same file."""
    SSL_CONFIG_SERVER_KEY = "ssl-config.server-key", InputError
    """The settings for client certificates of an attested server contain a server's key or certificate."""
    SSL_CONFIG_SYNTAX = "ssl-config.syntax", InputError
    """The file is not an SSLConfig message in protobuf text format."""
