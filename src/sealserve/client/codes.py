"""The codes of the errors of sealserve.client.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError


class ClientCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    BUNDLE_INVALID = "client.bundle-invalid", InputError
    """A file is not a client bundle, or one of its fields is wrong."""
    BUNDLE_VERSION = "client.bundle-version", InputError
    """A client bundle was written by a newer version of sealserve."""
    CREDENTIALS = "client.credentials", InputError
    """A certificate or key that was given cannot be used."""
    METADATA_MISSING = "client.metadata-missing", UnavailableError
    """The service's metadata reply holds no signatures that can be read."""
    MODEL_CHOICE = "client.model-choice", InputError
    """A model must be named: the bundle lists several models or none."""
    TARGET = "client.target", InputError
    """An address is not of the form host:port."""
    TENSOR_MALFORMED = "client.tensor-malformed", UnavailableError
    """A tensor in a reply contradicts itself."""
    TENSOR_TOO_LARGE = "client.tensor-too-large", InputError
    """An array does not fit in a request."""
    VERSION_CHOICE = "client.version-choice", InputError
    """A version of a model was chosen by number and label at once, or by an empty label."""
