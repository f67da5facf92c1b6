"""The codes of the errors of sealserve.sealing.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, VerificationError


class SealingCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    ARCHIVE_DUPLICATE_MEMBER = "archive.duplicate-member", VerificationError
    """Two members have the same path."""
    ARCHIVE_NOT_A_TAR = "archive.not-a-tar", VerificationError
    """The file is no tar file, or a header in it cannot be read."""
    ARCHIVE_TOO_LARGE = "archive.too-large", VerificationError
    """A member has another size than in the signed index, or is larger than its kind can be."""
    ARCHIVE_TRAILING_DATA = "archive.trailing-data", VerificationError
    """There is something behind the archive's end, or its end is in the middle of it."""
    ARCHIVE_TRUNCATED = "archive.truncated", VerificationError
    """The archive ends in the middle."""
    ARCHIVE_UNEXPECTED_MEMBER = "archive.unexpected-member", VerificationError
    """A member is not in the signed index, or not where it must be."""
    ARCHIVE_UNSAFE_MEMBER = "archive.unsafe-member", VerificationError
    """A member is no plain regular file: a link, a device, a pipe, a folder, a sparse file."""
    ARCHIVE_UNSAFE_PATH = "archive.unsafe-path", VerificationError
    """A member's path leads outside of the release."""

    INDEX_BAD_SIGNATURE = "index.bad-signature", VerificationError
    """An index is not signed by the owner's key."""

    RELEASE_INCOMPLETE = "release.incomplete", VerificationError
    """The folder has no index or no signature: it is no release, or half of one."""
    RELEASE_INVALID_CONTENTS = "release.invalid-contents", InputError
    """What should go into a release does not fit together."""
    RELEASE_INVALID_INDEX = "release.invalid-index", VerificationError
    """The index is not one that sealserve writes."""

    SEALED_FILE_BAD_MAGIC = "sealed-file.bad-magic", VerificationError
    """The file does not begin as an encrypted file does."""
    SEALED_FILE_KEY_LENGTH = "sealed-file.key-length", InputError
    """The wrap key does not have 16 bytes."""
    SEALED_FILE_SOURCE_CHANGED = "sealed-file.source-changed", InputError
    """The file changed while it was sealed."""
    SEALED_FILE_TRAILING_DATA = "sealed-file.trailing-data", VerificationError
    """There is something behind the last node."""
    SEALED_FILE_TRUNCATED = "sealed-file.truncated", VerificationError
    """The file is shorter than its content needs."""
    SEALED_FILE_UNKNOWN_VERSION = "sealed-file.unknown-version", VerificationError
    """The file's format version is neither 1 nor 2."""
    SEALED_FILE_UNUSABLE_PATH = "sealed-file.unusable-path", InputError
    """The path cannot be embedded in a sealed file."""
    SEALED_FILE_WRONG_KEY = "sealed-file.wrong-key", VerificationError
    """The metadata does not decrypt: another key, or a changed node 0. The format cannot tell the two apart."""

    TREE_EMPTY = "tree.empty", InputError
    """There is no file in the folder."""
    TREE_NOT_REGULAR = "tree.not-regular", InputError
    """Something in the folder is a link, a pipe, a socket or a device."""
    TREE_UNREADABLE = "tree.unreadable", InputError
    """The operating system does not let us list a folder."""
    TREE_UNUSABLE_NAME = "tree.unusable-name", InputError
    """A file's name cannot be used in a release."""

    WRAP_KEY_MISSING = "wrap-key.missing", InputError
    """There is no key file at that path, or it cannot be read."""
    WRAP_KEY_SIZE = "wrap-key.size", InputError
    """The key file does not hold a raw 128-bit key."""
