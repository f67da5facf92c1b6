"""The codes of the errors of sealserve.owner.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class OwnerCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    BACKUP_CONTENT = "backup.content", VerificationError
    """A file of the backup is missing, added or changed."""
    BACKUP_FORMAT = "backup.format", VerificationError
    """The file is no backup, or was damaged."""
    BACKUP_NO_KEY = "backup.no-key", InputError
    """Nothing says which key opens the backup."""
    BACKUP_NO_WORKSPACE = "backup.no-workspace", InputError
    """There is nothing to back up."""
    BACKUP_WRONG_KEY = "backup.wrong-key", VerificationError
    """The master key is not the one that the backup needs."""

    CERTS_TLS_MODE = "certs.tls-mode", InputError
    """The certificates asked for are not those that the deployment describes."""

    ENCLAVE_RELEASE_PLATFORM = "enclave.release-platform", InputError
    """The release was built for another platform than the deployment's."""

    INVENTORY_OTHER_SERVER = "inventory.other-server", InputError
    """The inventory is of another model server than the one that is deployed."""

    KEYSTORE_PASSPHRASE_SHORT = "keystore.passphrase-short", InputError
    """A new passphrase is too short."""

    MODEL_NO_PATH = "model.no-path", InputError
    """The deployment does not say where its model is."""
    MODEL_NOT_IMPORTED = "model.not-imported", InputError
    """The deployment's model is not in the workspace yet."""
    MODEL_SOURCE_CHANGED = "model.source-changed", InputError
    """A model's source changed while it was converted."""

    OWNER_KEY_UNREADABLE = "owner-key.unreadable", InputError
    """A key of the owner's is missing, or no Ed25519 key."""

    RELEASE_AMBIGUOUS = "release.ambiguous", InputError
    """Several releases fit."""
    RELEASE_MISSING = "release.missing", InputError
    """There is no such release in the workspace."""
    RELEASE_STORE_ADDRESS = "release.store-address", InputError
    """The release's address is none of the web."""
    RELEASE_STORE_REFUSED = "release.store-refused", UnavailableError
    """The store answers, but not with the release."""
    RELEASE_STORE_UNREACHABLE = "release.store-unreachable", UnavailableError
    """The store cannot be reached, or the connection broke."""

    USER_CERTIFICATE_OUTDATED = "user.certificate-outdated", InputError
    """The certificate of a user has expired, or the authority that signed it was replaced."""
    USER_EXISTS = "user.exists", InputError
    """There is an active user of that name."""
    USER_NAME = "user.name", InputError
    """A text cannot be the name of a user."""
    USER_ONE_WAY_TLS = "user.one-way-tls", InputError
    """The users of a service with one-way TLS have no certificates."""
    USER_REGISTER_DAMAGED = "user.register-damaged", InputError
    """The register of users cannot be read."""
    USER_REVOCATION_UNSUPPORTED = "user.revocation-unsupported", InputError
    """The model server of the deployment does not support certificate revocation."""
    USER_UNKNOWN = "user.unknown", InputError
    """There is no active user of that name."""
