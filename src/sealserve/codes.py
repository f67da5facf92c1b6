"""The codes of the errors of sealserve's own modules.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError


class SealserveCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    FILE_DISK_FULL = "file.disk-full", UnavailableError
    """The file system (or the quota on it) has no room for the output."""
    FILE_UNWRITABLE = "file.unwritable", UnavailableError
    """The output cannot be written: its folder is missing, read-only, or somebody else's."""

    PRIVATE_FILE_SIZE = "private-file.size", InputError
    """A file with a secret is empty, or far too long."""
