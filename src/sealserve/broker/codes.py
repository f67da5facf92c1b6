"""The codes of the errors of sealserve.broker.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class BrokerCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    AUDIT_CHAIN = "audit.chain", VerificationError
    """A row of the audit log was changed, removed or inserted."""
    AUDIT_HEAD_FILE = "audit.head-file", InputError
    """A file holds no signed head of an audit log."""
    AUDIT_HEAD_SIGNATURE = "audit.head-signature", VerificationError
    """An audit head is not signed by the owner's key, or is not a head at all."""
    AUDIT_TRUNCATED = "audit.truncated", VerificationError
    """The audit log ends before a signed head, or has another row in its place."""

    BUSY = "broker.busy", UnavailableError
    """Too many connections or appraisals are under way."""
    CANNOT_LISTEN = "broker.cannot-listen", InputError
    """The broker cannot listen on this address."""
    DATABASE = "broker.database", UnavailableError
    """The broker's database cannot be opened, read or written."""
    DATABASE_CONTENT = "broker.database-content", VerificationError
    """A row of the database holds what sealserve never writes: somebody else changed it."""
    DATABASE_VERSION = "broker.database-version", InputError
    """The database was written by another version of sealserve."""
    DEADLINE = "broker.deadline", InputError
    """A draining deadline that is already over."""
    HARDENING = "broker.hardening", UnavailableError
    """The kernel did not let the process protect its memory."""
    METRICS_PORT = "broker.metrics-port", UnavailableError
    """The broker's page of metrics cannot be served on its port."""
    PLATFORM_ID = "broker.platform-id", InputError
    """What is to be enrolled is no platform's id, or its label is too long."""
    PLATFORM_NOT_ENROLLED = "broker.platform-not-enrolled", InputError
    """The platform whose enrolment is to be taken back is not enrolled."""
    RELEASE_CONFLICT = "broker.release-conflict", InputError
    """The release is known, but as something else."""
    RELEASE_FINAL = "broker.release-final", InputError
    """The release is revoked, and stays so."""
    RELEASE_POLICY = "broker.release-policy", InputError
    """The release is known with another policy, which only re-activating it changes."""

    KEYSTORE_KEY_IN_USE = "keystore.key-in-use", InputError
    """A key that a release names is not to be deleted."""
    KEYSTORE_MASTER_KEY_EXPOSED = "keystore.master-key-exposed", InputError
    """Others than its owner can read or write the master key's file."""
    KEYSTORE_MASTER_KEY_FORM = "keystore.master-key-form", InputError
    """The master key's file should hold a key under a passphrase, and does not."""
    KEYSTORE_MASTER_KEY_LENGTH = "keystore.master-key-length", InputError
    """The master key's file does not hold 32 bytes."""
    KEYSTORE_MASTER_KEY_MISSING = "keystore.master-key-missing", UnavailableError
    """There are encrypted keys, and the master key's file is gone."""
    KEYSTORE_MASTER_KEY_UNREADABLE = "keystore.master-key-unreadable", UnavailableError
    """The master key's file is there and cannot be read."""
    KEYSTORE_PASSPHRASE_MISSING = "keystore.passphrase-missing", InputError
    """The master key needs a passphrase, and nothing gives it."""
    KEYSTORE_PASSPHRASE_WRONG = "keystore.passphrase-wrong", InputError
    """The passphrase does not open the master key."""
    KEYSTORE_TRANSIT_REFUSED = "keystore.transit-refused", InputError
    """The key management service does not let us use the key, or has none of that name."""
    KEYSTORE_TRANSIT_SETTINGS = "keystore.transit-settings", InputError
    """The settings of the key management service cannot be used."""
    KEYSTORE_TRANSIT_UNAVAILABLE = "keystore.transit-unavailable", UnavailableError
    """The key management service cannot be reached, is sealed, or does not answer as it should."""
    KEYSTORE_UNKNOWN_KEY = "keystore.unknown-key", InputError
    """The keystore has no key of that id."""

    POLICY_RELEASE_DRAINING_ENDED = "policy.release-draining-ended", VerificationError
    """The release was draining, and its deadline is over."""
    POLICY_RELEASE_REVOKED = "policy.release-revoked", VerificationError
    """The release was revoked: no enclave gets its key any more."""
