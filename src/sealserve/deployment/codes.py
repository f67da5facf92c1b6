"""The codes of the errors of sealserve.deployment.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError


class DeploymentCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    INVALID_VALUE = "deployment.invalid-value", InputError
    """A value in the deployment file is missing or not usable."""
    MISSING = "deployment.missing", InputError
    """There is no deployment file at that path."""
    SYNTAX = "deployment.syntax", InputError
    """The deployment file is no TOML."""
    UNKNOWN_KEY = "deployment.unknown-key", InputError
    """The deployment file has a key that sealserve does not know."""
