"""Error codes of sealserve.containers.

An error that code catches by type, or that carries data, has its own class, which defines the code.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError


class ContainersCode(ErrorCode):
    """Code and family of each error. The docstring below a code gives its meaning."""

    DOCKER_MISSING = "docker.missing", UnavailableError
    """Docker is not installed on this machine."""
    DOCKER_UNREACHABLE = "docker.unreachable", UnavailableError
    """The Docker engine does not answer, or rejects this user."""

    IMAGE_BASE_PYTHON = "image.base-python", InputError
    """The base image has no Python version that sealserve supports."""
    IMAGE_MISSING = "image.missing", InputError
    """An image that the deployment needs is missing from this Docker engine."""
    IMAGE_WHEELS = "image.wheels", UnavailableError
    """The wheels of the locked packages cannot be downloaded or built."""
