"""The codes of the errors of sealserve.clouds.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError


class CloudsCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    CLOUD_REGION = "cloud.region", InputError
    """The cloud has no attestation service in that region, or a region must be named."""
