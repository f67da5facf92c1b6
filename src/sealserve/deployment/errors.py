"""What can be wrong with the file ``sealserve.toml``."""

from sealserve.errors import InputError


class DeploymentMissingError(InputError):
    """There is no deployment file at that path."""

    code = "deployment.missing"


class DeploymentSyntaxError(InputError):
    """The deployment file is no TOML."""

    code = "deployment.syntax"


class DeploymentKeyError(InputError):
    """The deployment file has a key that sealserve does not know."""

    code = "deployment.unknown-key"


class DeploymentValueError(InputError):
    """A value in the deployment file is missing or not usable."""

    code = "deployment.invalid-value"
