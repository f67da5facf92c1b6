"""Error codes of sealserve.serving.

An error that code catches by its type, or that carries data, has its own class. Such a class defines its code itself.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class ServingCode(ErrorCode):
    """Code and family of each error. The docstring below a member describes the error."""

    CONFIG_FILE_MISSING = "config-file.missing", InputError
    """A configuration file cannot be read."""

    FILE_LIST_EMPTY = "file-list.empty", VerificationError
    """The file list does not list any file."""
    FILE_LIST_MALFORMED = "file-list.malformed", VerificationError
    """The file list is not valid."""
    FILE_LIST_MISSING = "file-list.missing", VerificationError
    """The file list does not exist."""
    FILE_LIST_OUTSIDE = "file-list.outside", VerificationError
    """The model is outside of the folder that the file list covers."""
    FILE_LIST_UNREADABLE = "file-list.unreadable", VerificationError
    """The file list cannot be read. In an enclave, it was changed or moved, or the release is not writable."""

    FLAGS_CONFLICT = "flags.conflict", InputError
    """Two flags contradict each other."""
    FLAGS_INVALID_VALUE = "flags.invalid-value", InputError
    """A flag's value is missing or invalid."""
    FLAGS_MISSING = "flags.missing", InputError
    """A required flag is missing."""
    FLAGS_PLAINTEXT_REFUSED = "flags.plaintext-refused", InputError
    """Neither TLS settings nor the flag that allows plaintext were given."""
    FLAGS_REFUSED = "flags.refused", InputError
    """TensorFlow Serving supports this flag, but this server does not."""
    FLAGS_UNEXPECTED_ARGUMENT = "flags.unexpected-argument", InputError
    """The command line contains an argument that is not a flag."""
    FLAGS_UNKNOWN = "flags.unknown", InputError
    """The command line contains an unknown flag."""

    SERVABLE_FILE_CHANGED = "servable.file-changed", VerificationError
    """A file's size or SHA-256 differs from the file list."""
    SERVABLE_FILE_MISSING = "servable.file-missing", VerificationError
    """A file of the file list is missing."""
    SERVABLE_FILE_UNLISTED = "servable.file-unlisted", VerificationError
    """A file exists that the file list does not list."""
    SERVABLE_FILE_UNREADABLE = "servable.file-unreadable", VerificationError
    """A file cannot be read. In an enclave, it was changed or moved, or the release is not writable."""

    SERVER_ADMIN_TLS = "server.admin-tls", InputError
    """The admin address is invalid, or would accept clients without an operator's certificate."""
    SERVER_CLIENT_AUTHORITY = "server.client-authority", InputError
    """A TLS library cannot use the authorities that sign clients' certificates."""
    SERVER_TENSORFLOW_LIBRARY = "server.tensorflow-library", UnavailableError
    """TensorFlow's shared library cannot be loaded."""
    SERVER_THREADS = "server.threads", UnavailableError
    """The system allows fewer threads than the transport needs."""
    SERVER_TLS_SETTINGS_MISSING = "server.tls-settings-missing", InputError
    """The file with the TLS settings cannot be read."""
