"""Error codes of sealserve.doctor.

An error that code catches by type, or that carries data, has its own class, which defines the code.
"""

from sealserve.errors import ErrorCode, UnavailableError


class DoctorCode(ErrorCode):
    """Code and family of each error. The docstring below a code gives its meaning."""

    NOT_READY = "doctor.not-ready", UnavailableError
    """This machine lacks a requirement for its role, or is not fit for production."""
