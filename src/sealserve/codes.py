"""Error codes of the modules directly in `sealserve`.

An error that code catches by type, or that carries data, has its own class. That class defines the code.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError


class SealserveCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    FILE_DISK_FULL = "file.disk-full", UnavailableError
    """The file system is full, or its quota is exhausted, so the output cannot be written."""
    FILE_UNWRITABLE = "file.unwritable", UnavailableError
    """The output cannot be written: its folder does not exist, is read-only, or belongs to another user."""

    PRIVATE_FILE_SIZE = "private-file.size", InputError
    """A file that holds a secret is empty or exceeds the size limit."""
