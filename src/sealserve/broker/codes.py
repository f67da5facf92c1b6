"""Error codes of the package `sealserve.broker`.

An error that code catches by type, or that carries data, has its own class. That class defines the code.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class BrokerCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    AUDIT_CHAIN = "audit.chain", VerificationError
    """A row of the audit log was changed, removed or inserted."""
    AUDIT_HEAD_FILE = "audit.head-file", InputError
    """The file does not contain a signed head of an audit log."""
    AUDIT_HEAD_SIGNATURE = "audit.head-signature", VerificationError
    """The audit head is not signed with the owner's key, or its content is not an audit head."""
    AUDIT_TRUNCATED = "audit.truncated", VerificationError
    """The audit log ends before a signed head, or a different row stands at the head's position."""

    BUSY = "broker.busy", UnavailableError
    """The broker already handles the maximum number of connections or appraisals."""
    CANNOT_LISTEN = "broker.cannot-listen", InputError
    """The broker cannot listen on this address."""
    DATABASE = "broker.database", UnavailableError
    """The broker's database cannot be opened, read or written."""
    DATABASE_CONTENT = "broker.database-content", VerificationError
    """A row of the database has content that sealserve never writes. Another program changed the database."""
    DATABASE_VERSION = "broker.database-version", InputError
    """A different version of sealserve wrote the database."""
    DEADLINE = "broker.deadline", InputError
    """The draining deadline is in the past."""
    HARDENING = "broker.hardening", UnavailableError
    """The kernel refused to protect the memory of the broker's process."""
    METRICS_PORT = "broker.metrics-port", UnavailableError
    """The broker cannot serve its metrics page on the configured port."""
    PLATFORM_ID = "broker.platform-id", InputError
    """The value to enroll is not a platform id, or its label is too long."""
    PLATFORM_NOT_ENROLLED = "broker.platform-not-enrolled", InputError
    """The platform to remove is not enrolled."""
    RELEASE_CONFLICT = "broker.release-conflict", InputError
    """A release with this id or measurement is already registered with different properties."""
    RELEASE_FINAL = "broker.release-final", InputError
    """The release is revoked. Revocation is permanent."""
    RELEASE_POLICY = "broker.release-policy", InputError
    """The release is already registered with a different policy. Only re-activating the release changes its policy."""

    KEYSTORE_KEY_IN_USE = "keystore.key-in-use", InputError
    """The key cannot be deleted, because a registered release uses it."""
    KEYSTORE_MASTER_KEY_EXPOSED = "keystore.master-key-exposed", InputError
    """Users other than the owner can read or write the master key file."""
    KEYSTORE_MASTER_KEY_FORM = "keystore.master-key-form", InputError
    """The master key file is expected to hold a passphrase-encrypted key, but does not."""
    KEYSTORE_MASTER_KEY_LENGTH = "keystore.master-key-length", InputError
    """The master key file does not contain exactly 32 bytes."""
    KEYSTORE_MASTER_KEY_MISSING = "keystore.master-key-missing", UnavailableError
    """The keystore contains encrypted keys, but the master key file does not exist."""
    KEYSTORE_MASTER_KEY_UNREADABLE = "keystore.master-key-unreadable", UnavailableError
    """The master key file exists but cannot be read."""
    KEYSTORE_PASSPHRASE_MISSING = "keystore.passphrase-missing", InputError
    """The master key is encrypted with a passphrase, and no passphrase was supplied."""
    KEYSTORE_PASSPHRASE_WRONG = "keystore.passphrase-wrong", InputError
    """The passphrase does not decrypt the master key."""
    KEYSTORE_TRANSIT_REFUSED = "keystore.transit-refused", InputError
    """The key management service denies access to the key, or the key does not exist."""
    KEYSTORE_TRANSIT_SETTINGS = "keystore.transit-settings", InputError
    """The settings of the key management service are invalid."""
    KEYSTORE_TRANSIT_UNAVAILABLE = "keystore.transit-unavailable", UnavailableError
    """The key management service is unreachable or sealed, or its reply is invalid."""
    KEYSTORE_UNKNOWN_KEY = "keystore.unknown-key", InputError
    """The keystore does not contain a key with that id."""

    POLICY_RELEASE_DRAINING_ENDED = "policy.release-draining-ended", VerificationError
    """The draining deadline of the release has passed."""
    POLICY_RELEASE_REVOKED = "policy.release-revoked", VerificationError
    """The release is revoked: the broker no longer releases its key."""
