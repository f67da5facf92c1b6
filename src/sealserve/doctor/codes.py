"""The codes of the errors of sealserve.doctor.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, UnavailableError


class DoctorCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    NOT_READY = "doctor.not-ready", UnavailableError
    """Something is missing for this machine's part, or is not fit for production."""
