"""The codes of the errors of sealserve.client.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class ClientCode(ErrorCode):
    """Code and family of each error. The docstring below a code explains the error."""

    BUNDLE_INVALID = "client.bundle-invalid", InputError
    """A file is not a client bundle, or one of its fields is wrong."""
    BUNDLE_VERSION = "client.bundle-version", InputError
    """A client bundle was written by a newer version of sealserve."""
    CREDENTIALS = "client.credentials", InputError
    """A given certificate, key or service name cannot be used."""
    EVIDENCE_MISSING = "client.evidence-missing", VerificationError
    """The service does not offer evidence. It may not be an attested service, so an input is not sent."""
    EVIDENCE_UNAVAILABLE = "client.evidence-unavailable", UnavailableError
    """The service cannot answer a request for evidence now, for example because it receives too many of them."""
    METADATA_MISSING = "client.metadata-missing", UnavailableError
    """The service's metadata reply does not contain readable signatures."""
    MODEL_CHOICE = "client.model-choice", InputError
    """The request must name a model, because the bundle does not list exactly one model."""
    NO_RECEIPT = "client.no-receipt", VerificationError
    """A receipt was requested, but the service sent none. It may not be an attested service."""
    OWNER_KEY = "client.owner-key", InputError
    """The owner's key to trust is neither 64 hexadecimal digits nor an Ed25519 public key in PEM."""
    TARGET = "client.target", InputError
    """An address is not of the form host:port."""
    TENSOR_MALFORMED = "client.tensor-malformed", UnavailableError
    """A tensor in a reply is invalid, for example because its data does not match its shape."""
    TENSOR_TOO_LARGE = "client.tensor-too-large", InputError
    """An array is too large for a request."""
    VERSION_CHOICE = "client.version-choice", InputError
    """A model version was chosen by both number and label, or by an empty label."""
