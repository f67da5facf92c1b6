"""Error codes of sealserve.clouds.

An error that code catches by type, or that carries data, has its own class, which defines the code.
"""

from sealserve.errors import ErrorCode, InputError


class CloudsCode(ErrorCode):
    """Code and family of each error. The docstring below a code gives its meaning."""

    CLOUD_REGION = "cloud.region", InputError
    """The cloud has no attestation service in the region, or the command requires a region."""
