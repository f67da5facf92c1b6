"""Error codes of the package `sealserve.tracing`."""

from sealserve.errors import ErrorCode, InputError


class TracingCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    TRACES_ENDPOINT = "traces.endpoint", InputError
    """The address of the trace collector is not valid."""
