"""The codes of the errors of sealserve.pki.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, VerificationError


class PkiCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    AUTHORITY_INVALID_NAME = "authority.invalid-name", InputError
    """The names or addresses are missing, or one is not usable."""
    AUTHORITY_NAME_NOT_PERMITTED = "authority.name-not-permitted", InputError
    """The authority's own name constraints do not admit the name: every peer would refuse the certificate."""
    AUTHORITY_UNREADABLE = "authority.unreadable", InputError
    """What is in the folder is no authority of sealserve's."""
    AUTHORITY_WRONG_PURPOSE = "authority.wrong-purpose", InputError
    """The authority of the users signs clients, the other two sign servers."""

    CERTIFICATE_EXPIRED = "certificate.expired", VerificationError
    """The certificate was valid once."""
    CERTIFICATE_KEY_UNREADABLE = "certificate.key-unreadable", InputError
    """That is no PEM private key without a passphrase."""
    CERTIFICATE_UNREADABLE = "certificate.unreadable", InputError
    """That is no PEM certificate."""
    CERTIFICATE_UNSUPPORTED = "certificate.unsupported", InputError
    """A certificate has a key that one of the TLS libraries does not support."""

    SSL_CONFIG_MISSING_FIELD = "ssl-config.missing-field", InputError
    """The private key or the certificate is missing."""
    SSL_CONFIG_NO_CLIENT_AUTHORITY = "ssl-config.no-client-authority", InputError
    """Clients must show a certificate, and nothing says who signs it."""
    SSL_CONFIG_REVOCATION_LIST = "ssl-config.revocation-list", InputError
    """A certificate revocation list is damaged, of another kind, or not signed by an authority of the same file."""
    SSL_CONFIG_SYNTAX = "ssl-config.syntax", InputError
    """The file is no SSLConfig in protobuf text format."""
