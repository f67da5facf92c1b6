"""The codes of the errors of sealserve.ingress.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError


class IngressCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    ADDRESS_UNUSABLE = "ingress.address-unusable", UnavailableError
    """NGINX may not, or cannot, listen on an address."""
    ALREADY_RUNNING = "ingress.already-running", UnavailableError
    """An NGINX of this run folder runs already."""
    CONFIG_REFUSED = "ingress.config-refused", UnavailableError
    """NGINX refuses the configuration that was made for it."""
    INVALID_VALUE = "ingress.invalid-value", InputError
    """A value cannot go into NGINX's configuration."""
    NGINX_MISSING = "ingress.nginx-missing", UnavailableError
    """This machine has no NGINX that can be used."""
    NOT_RUNNING = "ingress.not-running", UnavailableError
    """There is no NGINX of this run folder."""
    RELOAD_FAILED = "ingress.reload-failed", UnavailableError
    """NGINX did not take the new configuration; it goes on with the old one."""
    START_FAILED = "ingress.start-failed", UnavailableError
    """NGINX did not start."""
    STREAM_MODULE_MISSING = "ingress.stream-module-missing", UnavailableError
    """NGINX is there, without the module that passes TLS through."""
