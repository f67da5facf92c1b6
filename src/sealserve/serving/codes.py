"""The codes of the errors of sealserve.serving.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class ServingCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    CONFIG_FILE_MISSING = "config-file.missing", InputError
    """A configuration file cannot be read."""

    FILE_LIST_EMPTY = "file-list.empty", VerificationError
    """The file list names no file."""
    FILE_LIST_MALFORMED = "file-list.malformed", VerificationError
    """The file list is not what a file list should be."""
    FILE_LIST_MISSING = "file-list.missing", VerificationError
    """There is no file list at that path."""
    FILE_LIST_OUTSIDE = "file-list.outside", VerificationError
    """The model lies where the file list says nothing about."""
    FILE_LIST_UNREADABLE = "file-list.unreadable", VerificationError
    """The file list cannot be read: in an enclave, it was changed or moved, or the release is not writable."""

    FLAGS_CONFLICT = "flags.conflict", InputError
    """Two flags ask for different things."""
    FLAGS_INVALID_VALUE = "flags.invalid-value", InputError
    """A flag's value is missing, or is not of its kind."""
    FLAGS_MISSING = "flags.missing", InputError
    """A flag that has no default was not given."""
    FLAGS_PLAINTEXT_REFUSED = "flags.plaintext-refused", InputError
    """Neither TLS settings nor the flag that does without them."""
    FLAGS_REFUSED = "flags.refused", InputError
    """TensorFlow Serving has this flag, and this server does not do what it asks for."""
    FLAGS_UNEXPECTED_ARGUMENT = "flags.unexpected-argument", InputError
    """The command line has something that is no flag."""
    FLAGS_UNKNOWN = "flags.unknown", InputError
    """The command line has a flag that nobody knows."""

    SERVABLE_FILE_CHANGED = "servable.file-changed", VerificationError
    """A file is not the one that the list names."""
    SERVABLE_FILE_MISSING = "servable.file-missing", VerificationError
    """A file of the list is not there."""
    SERVABLE_FILE_UNLISTED = "servable.file-unlisted", VerificationError
    """A file is there that the list does not name."""
    SERVABLE_FILE_UNREADABLE = "servable.file-unreadable", VerificationError
    """A file cannot be read: in an enclave, it was changed or moved, or the release is not writable."""

    SERVER_ADMIN_TLS = "server.admin-tls", InputError
    """The admin address would let everybody in who reaches it."""
    SERVER_CLIENT_AUTHORITY = "server.client-authority", InputError
    """A TLS library cannot use the authorities that sign clients' certificates."""
    SERVER_TENSORFLOW_LIBRARY = "server.tensorflow-library", UnavailableError
    """TensorFlow's shared library cannot be loaded."""
    SERVER_THREADS = "server.threads", UnavailableError
    """The system does not allow as many threads as the transport needs."""
    SERVER_TLS_SETTINGS_MISSING = "server.tls-settings-missing", InputError
    """The file with the TLS settings cannot be read."""
