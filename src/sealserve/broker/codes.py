"""Error codes of the package `sealserve.broker`.

An error that code catches by type, or that carries data, has its own class. That class defines the code.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class BrokerCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    ADMINISTRATION_BUSY = "administration.busy", UnavailableError
    """The broker already handles the maximum number of requests, or this administrator sends too many of them."""
    ADMINISTRATION_FILE = "administration.file", InputError
    """The file is not an administrator file, or its certificate and key do not belong together."""
    ADMINISTRATION_PATH = "administration.path", InputError
    """The path does not belong to the administration API of this version of the broker."""
    ADMINISTRATION_PORT = "administration.port", UnavailableError
    """The broker cannot serve the administration API on the configured address and port."""
    ADMINISTRATION_REFUSED = "administration.refused", VerificationError
    """The broker does not accept the administrator's certificate: unknown authority, expired, or no certificate."""
    ADMINISTRATION_REPLY = "administration.reply", UnavailableError
    """The reply is not a valid reply of the administration API."""
    ADMINISTRATION_REQUEST = "administration.request", InputError
    """The request does not match the description of the administration API."""
    ADMINISTRATION_ROLE = "administration.role", VerificationError
    """The administrator's role does not permit this operation."""
    ADMINISTRATION_SIZE = "administration.size", InputError
    """The body of the request exceeds the size limit."""
    ADMINISTRATION_SLOW = "administration.slow", UnavailableError
    """The request did not arrive within the time limit."""
    ADMINISTRATION_UNREACHABLE = "administration.unreachable", UnavailableError
    """The broker's administration port cannot be reached, or the connection was lost."""
    ADMINISTRATION_UNTRUSTED = "administration.untrusted", VerificationError
    """The server at the address does not have the certificate of the owner's broker."""
    ADMINISTRATION_URL = "administration.url", InputError
    """The address of the broker is not a valid https URL."""

    APPROVAL_VALIDITY = "broker.approval-validity", InputError
    """The validity of an approval is not a duration, or is out of range."""

    AUDIT_CHAIN = "audit.chain", VerificationError
    """A row of the audit log was changed, removed or inserted."""
    AUDIT_HEAD_BUSY = "audit.head-busy", UnavailableError
    """Another process holds the lock of the folder with the stored audit head for too long."""
    AUDIT_HEAD_FILE = "audit.head-file", InputError
    """The file does not contain a signed head of an audit log."""
    AUDIT_HEAD_SIGNATURE = "audit.head-signature", VerificationError
    """The audit head is not signed with the owner's key, or its content is not an audit head."""
    AUDIT_STATE = "audit.state", VerificationError
    """The rows of the broker's database differ from the state that its audit log records."""
    AUDIT_TRUNCATED = "audit.truncated", VerificationError
    """The audit log ends before a signed head, or a different row stands at the head's position."""

    BUSY = "broker.busy", UnavailableError
    """The broker already handles the maximum number of connections or appraisals."""
    CANNOT_LISTEN = "broker.cannot-listen", InputError
    """The broker cannot listen on this address."""
    CERTIFICATE_UNUSABLE = "broker.certificate-unusable", InputError
    """Enclaves would reject the broker's new certificate. A running broker keeps its former certificate."""
    DATABASE = "broker.database", UnavailableError
    """The broker's database cannot be opened, read or written."""
    DATABASE_AUTHENTICATION = "broker.database-authentication", VerificationError
    """A row that a decision reads is not authentic, or is an outdated copy. Another program changed the database."""
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
    NOTIFICATION_SETTINGS = "broker.notification-settings", InputError
    """A setting of the broker's notifications is invalid: the URL, the signing secret or the CA certificate."""
    NOT_APPROVED = "broker.not-approved", InputError
    """The approval to withdraw does not exist."""
    PLATFORM_ID = "broker.platform-id", InputError
    """The value is not a platform id, or the label of the platform is too long."""
    PLATFORM_NOT_ENROLLED = "broker.platform-not-enrolled", InputError
    """The platform to remove is not enrolled."""
    PROCESS_ENDED = "broker.process-ended", UnavailableError
    """A process of the broker ended unexpectedly, again and again."""
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
    KEYSTORE_PKCS11_KEY = "keystore.pkcs11-key", InputError
    """The token does not contain exactly one secret key with this label."""
    KEYSTORE_PKCS11_KEY_ATTRIBUTES = "keystore.pkcs11-key-attributes", InputError
    """The key in the token can be exported, or cannot encrypt and decrypt with AES-GCM."""
    KEYSTORE_PKCS11_PIN_LOCKED = "keystore.pkcs11-pin-locked", InputError
    """The token's PIN is locked, or one more wrong PIN would lock it."""
    KEYSTORE_PKCS11_PIN_WRONG = "keystore.pkcs11-pin-wrong", InputError
    """The token rejects the PIN. sealserve uses a rejected PIN only once."""
    KEYSTORE_PKCS11_SETTINGS = "keystore.pkcs11-settings", InputError
    """The settings of the PKCS#11 token are invalid, or the file is not a PKCS#11 module."""
    KEYSTORE_PKCS11_TOKEN = "keystore.pkcs11-token", UnavailableError
    """The module finds no token, or several tokens, with this label."""
    KEYSTORE_PKCS11_UNAVAILABLE = "keystore.pkcs11-unavailable", UnavailableError
    """The PKCS#11 module or its token failed, ended, or did not reply in time."""
    KEYSTORE_ROTATING = "keystore.rotating", UnavailableError
    """Another process replaced the master key or changed the stored keys at the same time."""
    KEYSTORE_TRANSIT_REFUSED = "keystore.transit-refused", InputError
    """The key management service denies access to the key, or the key does not exist."""
    KEYSTORE_TRANSIT_SETTINGS = "keystore.transit-settings", InputError
    """The settings of the key management service are invalid."""
    KEYSTORE_TRANSIT_UNAVAILABLE = "keystore.transit-unavailable", UnavailableError
    """The key management service is unreachable or sealed, or its reply is invalid."""
    KEYSTORE_UNKNOWN_ISSUING_KEY = "keystore.unknown-issuing-key", InputError
    """The keystore does not contain the private key of the issuing authority in ``owner/issuing``."""
    KEYSTORE_UNKNOWN_KEY = "keystore.unknown-key", InputError
    """The keystore does not contain a key with that id."""
    KEYSTORE_UNKNOWN_WRAPPER = "keystore.unknown-wrapper", InputError
    """A key is encrypted by a master key or key service that sealserve.toml does not configure."""

    POLICY_APPROVAL_PENDING = "policy.approval-pending", VerificationError
    """The release requires the approval of each platform, and this platform has no valid approval."""
    POLICY_LIMIT = "policy.limit", VerificationError
    """The platform received the maximum number of keys for the configured period."""
    POLICY_RELEASE_DRAINING_ENDED = "policy.release-draining-ended", VerificationError
    """The draining deadline of the release has passed."""
    POLICY_RELEASE_REVOKED = "policy.release-revoked", VerificationError
    """The release is revoked: the broker no longer releases its key."""
