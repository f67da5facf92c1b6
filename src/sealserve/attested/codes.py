"""Error codes of the package `sealserve.attested`."""

from sealserve.errors import ErrorCode, InputError, VerificationError


class AttestedCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    EVIDENCE_ALLOWED_OPERATIONS = "evidence.allowed-operations", VerificationError
    """The owner allowed operations that the model lint rejects, and the user's policy does not accept them."""
    EVIDENCE_BROKER_UNKNOWN = "evidence.broker-unknown", VerificationError
    """A broker issued the attestation result that the release statement does not name."""
    EVIDENCE_CERTIFICATE = "evidence.certificate", VerificationError
    """The certificate of the TLS connection is malformed."""
    EVIDENCE_ENCLAVE_UNKNOWN = "evidence.enclave-unknown", VerificationError
    """The release statement does not list an enclave with this MRENCLAVE."""
    EVIDENCE_KEYSET_BINDING = "evidence.keyset-binding", VerificationError
    """The quote does not cover the keyset. The quote may be copied from another enclave."""
    EVIDENCE_NONCE = "evidence.nonce", InputError
    """The nonce of a request for evidence does not have 32 bytes."""
    EVIDENCE_NONCE_SIGNATURE = "evidence.nonce-signature", VerificationError
    """The identity key of the keyset did not sign the user's nonce. The evidence may be replayed."""
    EVIDENCE_NOT_PINNED = "evidence.not-pinned", VerificationError
    """The user's policy pins enclaves, and this enclave is not one of them."""
    EVIDENCE_NO_RESULT = "evidence.no-result", VerificationError
    """The evidence contains no attestation result, so the release may be revoked."""
    EVIDENCE_NO_STATEMENT = "evidence.no-statement", VerificationError
    """The evidence contains no release statement, and the user's policy requires a statement."""
    EVIDENCE_PLATFORM_KIND = "evidence.platform-kind", VerificationError
    """The quote is from an SGX processor, but the user's policy names a simulated root."""
    EVIDENCE_RELEASE = "evidence.release", VerificationError
    """The keyset, the release statement and the attestation result name different releases."""
    EVIDENCE_RELEASE_NOT_PINNED = "evidence.release-not-pinned", VerificationError
    """The user's policy pins releases, and this release is not one of them."""
    EVIDENCE_RESULT_BINDING = "evidence.result-binding", VerificationError
    """The attestation result is for another enclave, or is not bound to a session."""
    EVIDENCE_SHARED_BATCHES = "evidence.shared-batches", VerificationError
    """The release computes requests of several users in one batch, and the user's policy does not accept it."""
    EVIDENCE_SIMULATED = "evidence.simulated", VerificationError
    """The quote is from a simulated platform, which protects nothing, and the user's policy names no simulated root."""
    EVIDENCE_TLS_KEY = "evidence.tls-key", VerificationError
    """The TLS connection ends at another key than the keyset's TLS key. Another machine may read the connection."""

    RECEIPT_ENCLAVE = "receipt.enclave", VerificationError
    """The receipt is from another enclave or release than the evidence."""
    RECEIPT_ENCODING = "receipt.encoding", VerificationError
    """A part of the receipt is not canonical base64url without padding."""
    RECEIPT_FORM = "receipt.form", VerificationError
    """The receipt does not consist of three parts that are separated by dots."""
    RECEIPT_HEADER = "receipt.header", VerificationError
    """The header of the receipt is not the header for the identity key of the evidence."""
    RECEIPT_MODEL = "receipt.model", VerificationError
    """The receipt names a model that the release statement does not list, or another digest of the model."""
    RECEIPT_REQUEST = "receipt.request", VerificationError
    """The receipt is for another request."""
    RECEIPT_RESPONSE = "receipt.response", VerificationError
    """The receipt is for another response."""
    RECEIPT_SIGNATURE = "receipt.signature", VerificationError
    """The signature of the receipt is invalid."""
    RECEIPT_SIZE = "receipt.size", VerificationError
    """The receipt is empty or too large."""

    STATEMENT_CONTENT = "statement.content", VerificationError
    """The release statement contains reference values that accept a debug enclave, or an invalid key of a broker."""
    STATEMENT_SIGNATURE = "statement.signature", VerificationError
    """No pinned owner key signed the release statement."""

    USER_POLICY_EMPTY = "user-policy.empty", InputError
    """The user's policy pins neither an owner key nor an enclave. An empty policy is an error."""
    USER_POLICY_INVALID = "user-policy.invalid", InputError
    """The user's policy file is not valid TOML, or contains an unknown key or an invalid value."""
