"""The codes of the errors of sealserve.owner.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class OwnerCode(ErrorCode):
    """Code and family of each error. The docstring below a code explains the error."""

    ADMINISTRATOR_AUTHORITY = "administrator.authority", InputError
    """The certificate authority of the administrators does not exist yet."""
    ADMINISTRATOR_REGISTER_DAMAGED = "administrator.register-damaged", InputError
    """The register of administrators is damaged."""
    ADMINISTRATOR_UNKNOWN = "administrator.unknown", InputError
    """No administrator with this name has a certificate that is not revoked."""

    BACKUP_CONTENT = "backup.content", VerificationError
    """A file of the backup is missing, was added, or was changed."""
    BACKUP_FORMAT = "backup.format", VerificationError
    """The file is not a backup, or it is damaged."""
    BACKUP_NO_KEY = "backup.no-key", InputError
    """The key that opens the backup was not specified."""
    BACKUP_NO_WORKSPACE = "backup.no-workspace", InputError
    """The folder does not contain a workspace that can be backed up."""
    BACKUP_WRONG_KEY = "backup.wrong-key", VerificationError
    """The backup was made under another master key, or its wrapped key is damaged."""

    CERTS_NOT_ATTESTED = "certs.not-attested", InputError
    """The command needs attested serving, which the deployment does not use."""
    CERTS_TLS_MODE = "certs.tls-mode", InputError
    """The requested certificates are for another TLS mode than service.tls."""

    DATABASE_EMPTY = "owner.database-empty", UnavailableError
    """The database on the server is empty, although files in the workspace depend on its content."""
    DATABASE_IMPORT = "owner.database-import", InputError
    """The workspace's database file cannot be imported into the database on the server."""

    ENCLAVE_RELEASE_PLATFORM = "enclave.release-platform", InputError
    """The release was built for another platform than the deployment's platform."""

    INVENTORY_OTHER_SERVER = "inventory.other-server", InputError
    """The inventory describes another model server than server.kind."""

    KEYSTORE_PASSPHRASE_SHORT = "keystore.passphrase-short", InputError
    """A new passphrase is too short."""

    MODEL_NO_PATH = "model.no-path", InputError
    """The path of a model is not set in sealserve.toml."""
    MODEL_NOT_IMPORTED = "model.not-imported", InputError
    """A model of the deployment was not converted into the workspace yet."""
    MODEL_SOURCE_CHANGED = "model.source-changed", InputError
    """The source of a model changed during its conversion."""
    MODEL_WARM_UP = "model.warm-up", InputError
    """A warm-up request cannot be generated, because the signature does not determine the inputs."""

    MODEL_SIGNATURE_INVALID = "model-signature.invalid", VerificationError
    """The signature of a model does not verify with the key, authority or identity that the owner trusts."""
    MODEL_SIGNATURE_KEY = "model-signature.key", InputError
    """The key that should sign a model is missing or unusable."""
    MODEL_SIGNATURE_MISSING = "model-signature.missing", InputError
    """The settings name the signer of a model, but the model has no signature."""
    MODEL_SIGNATURE_SIGNER = "model-signature.signer", VerificationError
    """The certificate of a model's signature has expired, or is of another subject than the owner trusts."""
    MODEL_SIGNATURE_TRUST = "model-signature.trust", InputError
    """A file with the key, authority or trust root for a model's signature cannot be used."""
    MODEL_SIGNATURE_TRUST_ROOT = "model-signature.trust-root", UnavailableError
    """The trust root of Sigstore cannot be loaded."""

    OWNER_KEY_UNREADABLE = "owner-key.unreadable", InputError
    """A key of the owner is missing, unreadable, or not an Ed25519 key."""

    POLICY_UNKNOWN = "policy.unknown", InputError
    """The name is neither a preset, nor a policy file, nor a registered release, or the policy file does not exist."""

    RELEASE_AMBIGUOUS = "release.ambiguous", InputError
    """Several releases match the given name or id."""
    RELEASE_MISSING = "release.missing", InputError
    """The release does not exist in the workspace."""
    RELEASE_STATEMENT = "release.statement", InputError
    """The owner cannot state the release to users: it has too many enclaves or models, or no record of its models."""
    RELEASE_STORE_ADDRESS = "release.store-address", InputError
    """The address of the release is not a valid HTTP or HTTPS address."""
    RELEASE_STORE_REFUSED = "release.store-refused", UnavailableError
    """The store answered with an error, or with a document that is not a packed release."""
    RELEASE_STORE_UNREACHABLE = "release.store-unreachable", UnavailableError
    """The store cannot be reached, or the connection failed during the download."""

    ROW_KEY_MISSING = "owner.row-key-missing", UnavailableError
    """The key that authenticates the rows of a database on a server is missing, and is not created on this machine."""

    SERVER_CONFIG_SHARED_BATCHES = "server-config.shared-batches", InputError
    """An attested server must not compute the requests of several users together, but batching is configured."""

    USER_CERTIFICATE_OUTDATED = "user.certificate-outdated", InputError
    """The certificate of a user has expired, or the authority that signed it was replaced."""
    USER_EXISTS = "user.exists", InputError
    """An active user with this name already exists."""
    USER_NAME = "user.name", InputError
    """The text is not a valid user name."""
    USER_ONE_WAY_TLS = "user.one-way-tls", InputError
    """The service uses one-way TLS, in which users do not have certificates."""
    USER_REGISTER_DAMAGED = "user.register-damaged", InputError
    """The register of users is damaged."""
    USER_REVOCATION_UNSUPPORTED = "user.revocation-unsupported", InputError
    """The model server of the deployment does not support certificate revocation."""
    USER_UNKNOWN = "user.unknown", InputError
    """No active user has this name."""
