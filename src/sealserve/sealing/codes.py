"""Error codes of the package `sealserve.sealing`.

An error that code catches by type, or that carries data, has its own class. That class defines the code.
"""

from sealserve.errors import ErrorCode, InputError, VerificationError


class SealingCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    ARCHIVE_DUPLICATE_MEMBER = "archive.duplicate-member", VerificationError
    """Two members of the archive have the same path."""
    ARCHIVE_NOT_A_TAR = "archive.not-a-tar", VerificationError
    """The file is not a tar archive, or one of its headers cannot be read."""
    ARCHIVE_TOO_LARGE = "archive.too-large", VerificationError
    """A member's size differs from the signed index, or exceeds the limit for its kind of file."""
    ARCHIVE_TRAILING_DATA = "archive.trailing-data", VerificationError
    """The archive has data after its end marker, or its end marker is incomplete."""
    ARCHIVE_TRUNCATED = "archive.truncated", VerificationError
    """The archive ends before its last member is complete."""
    ARCHIVE_UNEXPECTED_MEMBER = "archive.unexpected-member", VerificationError
    """A member is not in the signed index, or is not at its required position."""
    ARCHIVE_UNSAFE_MEMBER = "archive.unsafe-member", VerificationError
    """A member is not a regular file: it is a link, device, pipe, folder or sparse file."""
    ARCHIVE_UNSAFE_PATH = "archive.unsafe-path", VerificationError
    """A member's path points outside the release folder."""

    INDEX_BAD_SIGNATURE = "index.bad-signature", VerificationError
    """The index is not signed with the owner's key."""

    MODEL_SIGNATURE_FORMAT = "model-signature.format", VerificationError
    """The file is not an OpenSSF Model Signing signature, or two readers could read it differently."""
    MODEL_SIGNATURE_MISMATCH = "model-signature.mismatch", VerificationError
    """The files of a model are not exactly the files that its signature covers."""
    MODEL_SIGNATURE_UNSUPPORTED = "model-signature.unsupported", VerificationError
    """The signature of a model has a version, a serialization or a digest algorithm that sealserve does not support."""

    RELEASE_INCOMPLETE = "release.incomplete", VerificationError
    """The folder lacks the index or its signature, so it is not a complete release."""
    RELEASE_INVALID_CONTENTS = "release.invalid-contents", InputError
    """The files and settings for a new release are invalid or contradict each other."""
    RELEASE_INVALID_INDEX = "release.invalid-index", VerificationError
    """The release index does not have the format that sealserve writes."""

    SEALED_FILE_BAD_MAGIC = "sealed-file.bad-magic", VerificationError
    """The file does not start with the magic bytes of an encrypted file."""
    SEALED_FILE_KEY_LENGTH = "sealed-file.key-length", InputError
    """The wrap key does not have a length of 16 bytes."""
    SEALED_FILE_SOURCE_CHANGED = "sealed-file.source-changed", InputError
    """The source file changed while it was being sealed."""
    SEALED_FILE_TRAILING_DATA = "sealed-file.trailing-data", VerificationError
    """The sealed file contains data after its last node."""
    SEALED_FILE_TRUNCATED = "sealed-file.truncated", VerificationError
    """The sealed file is shorter than its recorded content size requires."""
    SEALED_FILE_UNKNOWN_VERSION = "sealed-file.unknown-version", VerificationError
    """The format version of the sealed file is neither 1 nor 2."""
    SEALED_FILE_UNUSABLE_PATH = "sealed-file.unusable-path", InputError
    """The path cannot be embedded in a sealed file."""
    SEALED_FILE_WRONG_KEY = "sealed-file.wrong-key", VerificationError
    """The metadata cannot be decrypted: the key is wrong or node 0 was changed. The format cannot tell which."""

    TREE_EMPTY = "tree.empty", InputError
    """The folder does not contain any files."""
    TREE_NOT_REGULAR = "tree.not-regular", InputError
    """The folder contains a link, pipe, socket or device instead of a regular file."""
    TREE_UNREADABLE = "tree.unreadable", InputError
    """The operating system does not permit listing a folder."""
    TREE_UNUSABLE_NAME = "tree.unusable-name", InputError
    """The name of a file is not permitted in a release."""

    WRAP_KEY_MISSING = "wrap-key.missing", InputError
    """The wrap key file does not exist or cannot be read."""
    WRAP_KEY_SIZE = "wrap-key.size", InputError
    """The wrap key file does not contain exactly 16 bytes (a raw 128-bit key)."""
