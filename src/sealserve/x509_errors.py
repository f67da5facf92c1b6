"""The exceptions for malformed certificates. ``cryptography`` has no common base class for them."""

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

X509_ERRORS: Final = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
    UserWarning,  # for unusual names; raised as an error if warnings are errors
)
"""Raised for malformed certificates and revocation lists, mostly on first access to a part."""
