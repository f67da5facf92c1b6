"""The codes of the errors of sealserve.enclave.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class EnclaveCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    ENCLAVE_INDEX_FILES = "enclave-index.files", VerificationError
    """The files of the enclaves are not those of the index; the message names each."""
    ENCLAVE_INDEX_INVALID = "enclave-index.invalid", VerificationError
    """The index is not one that sealserve writes."""
    ENCLAVE_INDEX_RELEASE = "enclave-index.release", VerificationError
    """The enclaves were built for another release."""

    BROKER_CA = "enclave.broker-ca", InputError
    """The broker's CA certificate is no certificate, or another one than the release's other enclaves trust."""
    INSPECTION = "enclave.inspection", UnavailableError
    """The kernel did not let the launcher protect its memory."""
    INVALID_SPEC = "enclave.invalid-spec", InputError
    """What an enclave should be made of does not fit together."""
    MEASUREMENT = "enclave.measurement", VerificationError
    """The SIGSTRUCT vouches for another enclave than this manifest makes: EINIT would refuse to start it."""
    MISSING = "enclave.missing", InputError
    """A release has no enclave of that name."""
    MOUNT_SOURCE = "enclave.mount-source", VerificationError
    """What an encrypted mount names is not in the release."""
    NOT_FOR_SGX = "enclave.not-for-sgx", InputError
    """An enclave for the simulated platform does not start on SGX."""
    NOT_SIMULATED = "enclave.not-simulated", VerificationError
    """The manifest is for SGX."""
    OTHER_MANIFEST = "enclave.other-manifest", InputError
    """A manifest of one's own making is for another release, platform or broker."""
    OTHER_RELEASE = "enclave.other-release", InputError
    """The enclave was specified for another release than the one in the folder."""
    PLACE = "enclave.place", InputError
    """The release lies where the enclave's private files will be, and would be hidden by them."""
    PORT = "enclave.port", InputError
    """The manifest of an enclave does not say on which port its server listens."""
    PRIVATE_MEMORY = "enclave.private-memory", UnavailableError
    """There is no memory for private files on this machine."""
    PRIVATE_MEMORY_ROOM = "enclave.private-memory-room", UnavailableError
    """The memory for private files has no room for what the release holds."""
    SERVER_START = "enclave.server-start", UnavailableError
    """The server's program cannot be started."""
    TRUSTED_FILE_CHANGED = "enclave.trusted-file-changed", VerificationError
    """A trusted file is another one than was measured."""
    TRUSTED_FILE_MISSING = "enclave.trusted-file-missing", VerificationError
    """A trusted file is not there, or cannot be read."""
    TRUSTED_SOURCE = "enclave.trusted-source", InputError
    """A file that should be measured cannot be read."""
    WITHOUT_GRAMINE = "enclave.without-gramine", InputError
    """The enclave cannot run in Gramine: its manifest has no library OS."""

    GRAMINE_LOADER_MISSING = "gramine.loader-missing", UnavailableError
    """Gramine's loader is not on this machine."""
    GRAMINE_MISSING = "gramine.missing", UnavailableError
    """Gramine's build tools are not on this machine."""
    GRAMINE_OTHER_OUTPUT = "gramine.other-output", VerificationError
    """What Gramine's build tools made is not what they were asked for."""
    GRAMINE_OTHER_VERSION = "gramine.other-version", VerificationError
    """Gramine here is another one than where the enclave will run: it would measure another enclave."""
    GRAMINE_TOOL_FAILED = "gramine.tool-failed", UnavailableError
    """One of Gramine's build tools ended with an error; the message has what it said."""

    IMAGE_ROOT_UNUSABLE = "image-root.unusable", InputError
    """The folder that should hold an image's files is none, or a path in it cannot be followed."""

    INVENTORY_INVALID = "inventory.invalid", InputError
    """The inventory is not one that sealserve writes."""
    INVENTORY_SERVER_MISSING = "inventory.server-missing", InputError
    """The model server is not where it should be, or it lacks something."""

    MANIFEST_INSECURE = "manifest.insecure", VerificationError
    """The manifest has settings that would make the enclave insecure; the message names each with its line."""
    MANIFEST_INVALID_SETTING = "manifest.invalid-setting", VerificationError
    """A setting of the manifest has a value that sealserve does not accept."""
    MANIFEST_MISSING_SETTING = "manifest.missing-setting", VerificationError
    """The manifest lacks a setting without which the enclave would be insecure or would not work."""
    MANIFEST_SYNTAX = "manifest.syntax", VerificationError
    """The manifest is no TOML text."""
    MANIFEST_TEMPLATE = "manifest.template", VerificationError
    """The manifest is a template: what Gramine would make of it is not visible."""
    MANIFEST_UNKNOWN_SETTING = "manifest.unknown-setting", VerificationError
    """The manifest has a setting that sealserve does not know, or does not accept at all."""

    PROVISIONING_BROKER_CERTIFICATE = "provisioning.broker-certificate", VerificationError
    """The broker's certificate does not verify: it may be another's."""
    PROVISIONING_CONNECTION = "provisioning.connection", UnavailableError
    """The connection to the broker broke, or there is something else than a broker."""
    PROVISIONING_REFUSED = "provisioning.refused", VerificationError
    """The broker saw the evidence and closed the connection: it does not release the key."""
    PROVISIONING_SERVERS = "provisioning.servers", VerificationError
    """SECRET_PROVISION_SERVERS names no server."""
    PROVISIONING_UNREACHABLE = "provisioning.unreachable", UnavailableError
    """None of the brokers accepts a connection."""
