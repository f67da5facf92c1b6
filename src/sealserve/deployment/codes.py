"""Error codes of sealserve.deployment.

An error that code catches by type, or that carries data, has its own class, which defines the code.
"""

from sealserve.errors import ErrorCode, InputError


class DeploymentCode(ErrorCode):
    """Code and family of each error. The docstring below a code gives its meaning."""

    INVALID_VALUE = "deployment.invalid-value", InputError
    """A value in the deployment file is missing or invalid."""
    MISSING = "deployment.missing", InputError
    """The deployment file does not exist."""
    SYNTAX = "deployment.syntax", InputError
    """The deployment file is not valid TOML."""
    UNKNOWN_KEY = "deployment.unknown-key", InputError
    """The deployment file contains an unknown key."""
