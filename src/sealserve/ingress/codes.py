"""Error codes of sealserve.ingress.

An error that code catches by type, or that carries data, has its own class, which defines the code.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError


class IngressCode(ErrorCode):
    """Code and family of each error. The docstring below a code gives its meaning."""

    ADDRESS_UNUSABLE = "ingress.address-unusable", UnavailableError
    """NGINX cannot listen on an address, or lacks the permission."""
    ALREADY_RUNNING = "ingress.already-running", UnavailableError
    """An NGINX with this run folder is already running."""
    CONFIG_REFUSED = "ingress.config-refused", UnavailableError
    """NGINX rejects the configuration that sealserve generated."""
    INVALID_VALUE = "ingress.invalid-value", InputError
    """A value cannot be written to NGINX's configuration."""
    NGINX_MISSING = "ingress.nginx-missing", UnavailableError
    """NGINX is not installed on this machine, or it cannot be used."""
    NOT_RUNNING = "ingress.not-running", UnavailableError
    """No NGINX with this run folder is running."""
    RELOAD_FAILED = "ingress.reload-failed", UnavailableError
    """NGINX did not load the new configuration, and continues with the previous configuration."""
    START_FAILED = "ingress.start-failed", UnavailableError
    """NGINX did not start."""
    STREAM_MODULE_MISSING = "ingress.stream-module-missing", UnavailableError
    """NGINX is installed without the stream module, which passes TLS through."""
