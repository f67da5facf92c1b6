"""The codes of the errors of sealserve.containers.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError


class ContainersCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    DOCKER_MISSING = "docker.missing", UnavailableError
    """There is no Docker on this machine."""
    DOCKER_UNREACHABLE = "docker.unreachable", UnavailableError
    """The Docker engine does not answer, or does not let this user in."""

    IMAGE_BASE_PYTHON = "image.base-python", InputError
    """The base image has no Python that sealserve supports."""
    IMAGE_MISSING = "image.missing", InputError
    """An image that a deployment needs is not here."""
    IMAGE_WHEELS = "image.wheels", UnavailableError
    """The wheels of the locked packages cannot be had."""
