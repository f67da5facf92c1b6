"""Error codes of sealserve.enclave.

An error that code catches by its type, or that carries data, has its own class. Such a class defines its code itself.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class EnclaveCode(ErrorCode):
    """Code and family of each error. The docstring below a member describes the error."""

    ENCLAVE_INDEX_FILES = "enclave-index.files", VerificationError
    """The files of the enclaves differ from their signed index. The message names each file."""
    ENCLAVE_INDEX_INVALID = "enclave-index.invalid", VerificationError
    """The index of enclaves does not have the format that sealserve writes."""
    ENCLAVE_INDEX_RELEASE = "enclave-index.release", VerificationError
    """The enclaves were built for a different release."""

    CPU_FEATURE = "enclave.cpu-feature", UnavailableError
    """The processor lacks a feature that the enclave requires (``enclave.required_cpu_features``)."""
    BROKER_CA = "enclave.broker-ca", InputError
    """The broker's CA certificate is not valid PEM, or the other enclaves of the release trust a different CA."""
    DEVICE = "enclave.device", VerificationError
    """The program in a simulated enclave wrote a value of the wrong length to its attestation device."""
    INSPECTION = "enclave.inspection", UnavailableError
    """The kernel refused to protect the launcher's memory from other processes."""
    INVALID_SPEC = "enclave.invalid-spec", InputError
    """The specification of an enclave is invalid: a field has an unusable value, or Gramine's files are missing."""
    MEASUREMENT = "enclave.measurement", VerificationError
    """The SIGSTRUCT was signed for a different measurement, so that EINIT would refuse to start the enclave."""
    MISSING = "enclave.missing", InputError
    """The release does not contain an enclave with this name."""
    MOUNT_SOURCE = "enclave.mount-source", VerificationError
    """The source of an encrypted mount is missing in the release."""
    NOT_FOR_SGX = "enclave.not-for-sgx", InputError
    """The enclave was built for the simulated platform and cannot start on SGX."""
    NOT_SIMULATED = "enclave.not-simulated", VerificationError
    """The enclave was built for SGX and cannot run on the simulated platform."""
    OTHER_MANIFEST = "enclave.other-manifest", InputError
    """A custom manifest is for a different release, platform or broker."""
    OTHER_RELEASE = "enclave.other-release", InputError
    """The enclave was specified for a different release than the release in the folder."""
    PLACE = "enclave.place", InputError
    """The release's folder is below the mount point of the enclave's private files, which would hide it."""
    PORT = "enclave.port", InputError
    """The manifest's arguments do not contain a valid port for the server."""
    PRIVATE_MEMORY = "enclave.private-memory", UnavailableError
    """This machine offers no memory in which private files can be stored."""
    PRIVATE_MEMORY_ROOM = "enclave.private-memory-room", UnavailableError
    """The memory for private files is too small for the decrypted release."""
    SERVER_START = "enclave.server-start", UnavailableError
    """The program of the model server cannot be started."""
    TRUSTED_FILE_CHANGED = "enclave.trusted-file-changed", VerificationError
    """The content of a trusted file differs from the measured content."""
    TRUSTED_FILE_MISSING = "enclave.trusted-file-missing", VerificationError
    """A trusted file is missing or cannot be read, or the manifest does not list the file as trusted."""
    TRUSTED_SOURCE = "enclave.trusted-source", InputError
    """A file cannot be read, so its digest cannot be measured."""
    WITHOUT_GRAMINE = "enclave.without-gramine", InputError
    """The enclave cannot run in Gramine, because its manifest does not name Gramine's library OS."""

    GRAMINE_LOADER_MISSING = "gramine.loader-missing", UnavailableError
    """Gramine's loader is not installed on this machine."""
    GRAMINE_MISSING = "gramine.missing", UnavailableError
    """Gramine's build tools are not installed on this machine, or the installation is incomplete."""
    GRAMINE_OTHER_OUTPUT = "gramine.other-output", VerificationError
    """Gramine's build tools produced an output that differs from the requested enclave."""
    GRAMINE_OTHER_VERSION = "gramine.other-version", VerificationError
    """This machine's Gramine differs from the Gramine where the enclave will run, so the measurement would differ."""
    GRAMINE_TOOL_FAILED = "gramine.tool-failed", UnavailableError
    """One of Gramine's build tools failed. The message contains the tool's last output."""

    IMAGE_ROOT_UNUSABLE = "image-root.unusable", InputError
    """The folder with an image's files does not exist, or contains a path that cannot be used."""

    INVENTORY_INVALID = "inventory.invalid", InputError
    """The inventory does not have the format that sealserve writes."""
    INVENTORY_SERVER_MISSING = "inventory.server-missing", InputError
    """The model server is not at the given path, or its installation is incomplete."""

    MANIFEST_INSECURE = "manifest.insecure", VerificationError
    """The manifest has settings that would make the enclave insecure; the message names each with its line."""
    MANIFEST_INVALID_SETTING = "manifest.invalid-setting", VerificationError
    """A setting of the manifest has a value that sealserve does not accept."""
    MANIFEST_MISSING_SETTING = "manifest.missing-setting", VerificationError
    """The manifest lacks a required setting."""
    MANIFEST_SYNTAX = "manifest.syntax", VerificationError
    """The manifest is not valid TOML."""
    MANIFEST_TEMPLATE = "manifest.template", VerificationError
    """The manifest is a template, so its final content cannot be checked."""
    MANIFEST_UNKNOWN_SETTING = "manifest.unknown-setting", VerificationError
    """The manifest has a setting that sealserve does not accept."""

    PROVISIONING_BROKER_CERTIFICATE = "provisioning.broker-certificate", VerificationError
    """The broker's certificate does not verify. The server at this address may not be the broker."""
    PROVISIONING_CONNECTION = "provisioning.connection", UnavailableError
    """The connection to the broker broke, or the server at this address is not a broker."""
    PROVISIONING_REFUSED = "provisioning.refused", VerificationError
    """The broker rejected the enclave's evidence, and does not release the key."""
    PROVISIONING_SERVERS = "provisioning.servers", VerificationError
    """SECRET_PROVISION_SERVERS does not contain a valid list of brokers (host:port)."""
    PROVISIONING_UNREACHABLE = "provisioning.unreachable", UnavailableError
    """No broker in the list accepts a connection."""
