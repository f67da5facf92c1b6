"""Error codes of the package `sealserve.attestation`.

An error that code catches by type, or that carries data, has its own class. That class defines the code.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class AttestationCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    ATTEST_BINDING = "attest.binding", VerificationError
    """The quote is bound to another nonce, TLS session or keyset. It may be replayed or relayed."""
    ATTEST_CERTIFICATE = "attest.certificate", VerificationError
    """The certificate in the broker's grant is malformed, or is for another key than the enclave's TLS key."""
    ATTEST_CERTIFICATE_REQUEST = "attest.certificate-request", VerificationError
    """The enclave's certificate request is malformed, is not for a P-256 key, or its signature is invalid."""
    ATTEST_COLLATERAL = "attest.collateral", VerificationError
    """The collateral of the platform is too large for the answer of the broker, or has another form."""
    ATTEST_KEY = "attest.key", VerificationError
    """The broker's message with the release's key does not have the length of a key."""
    ATTEST_LENGTH = "attest.length", VerificationError
    """A message of `sealserve-attest/1` has an invalid length, or extra bytes follow it."""
    ATTEST_REFUSED = "attest.refused", VerificationError
    """The broker rejects the enclave. The reason is in the broker's audit log."""
    ATTEST_RELEASE = "attest.release", VerificationError
    """The keyset names another release than the release that the enclave's measurement belongs to."""
    ATTEST_TLS_KEY = "attest.tls-key", VerificationError
    """The enclave's certificate request is for another key than the TLS key of its keyset."""
    ATTEST_TRUNCATED = "attest.truncated", VerificationError
    """The peer closed the TLS session before it sent a complete message of `sealserve-attest/1`."""
    ATTEST_UNAVAILABLE = "attest.unavailable", UnavailableError
    """The broker was not able to decide about the enclave, for example because it is overloaded."""

    BROKER_NO_TRUST_ANCHOR = "broker.no-trust-anchor", UnavailableError
    """The broker was started without the trust anchor for this kind of platform."""

    DOCUMENT_CANONICAL = "document.canonical", VerificationError
    """The document is not in canonical form: its names are not sorted, or spaces are between its tokens."""
    DOCUMENT_DUPLICATE_NAME = "document.duplicate-name", VerificationError
    """A name occurs twice in an object of the document."""
    DOCUMENT_JSON = "document.json", VerificationError
    """The document is not a JSON object in UTF-8."""
    DOCUMENT_MEMBER = "document.member", VerificationError
    """A member of the document has the wrong type or form, or is out of range."""
    DOCUMENT_MISSING_MEMBER = "document.missing-member", VerificationError
    """The document lacks a required member."""
    DOCUMENT_SIZE = "document.size", VerificationError
    """The document is larger than its kind permits."""
    DOCUMENT_TRAILING_BYTES = "document.trailing-bytes", VerificationError
    """Extra bytes follow the document."""
    DOCUMENT_TYPE = "document.type", VerificationError
    """The document is of another kind."""
    DOCUMENT_UNKNOWN_MEMBER = "document.unknown-member", VerificationError
    """The document has a member that its version does not define."""
    DOCUMENT_VERSION = "document.version", VerificationError
    """The version of the document is not supported."""

    JWKS_FORM = "jwks.form", InputError
    """The file is not a JWK set of public keys that verify attestation results."""
    JWKS_KEY = "jwks.key", InputError
    """A key of the JWK set is not a P-256 public key for ES256, or its id is not its thumbprint."""
    JWKS_PRIVATE = "jwks.private", InputError
    """The JWK set contains a private key."""

    POLICY_ADVISORY = "policy.advisory", VerificationError
    """A security advisory affects the platform, and the policy does not accept that advisory."""
    POLICY_COLLATERAL_AGE = "policy.collateral-age", VerificationError
    """The collateral is valid, but older than the policy permits."""
    POLICY_EMPTY = "policy.empty", InputError
    """The appraisal policy contains no values. An empty policy is an error; it does not accept everything."""
    POLICY_EVALUATION_NUMBER = "policy.evaluation-number", VerificationError
    """The TCB evaluation data number of the collateral is lower than the policy requires."""
    POLICY_FILE = "policy.file", InputError
    """The policy file is not valid TOML, or contains an unknown key, a duplicate or an invalid value."""
    POLICY_MR_ENCLAVE_UNKNOWN = "policy.mr-enclave-unknown", VerificationError
    """No registered release contains an enclave with this MRENCLAVE."""
    POLICY_PLATFORM_DENIED = "policy.platform-denied", VerificationError
    """The policy lists this platform as denied."""
    POLICY_PLATFORM_NOT_ALLOWED = "policy.platform-not-allowed", VerificationError
    """The policy lists the allowed platforms, and this platform is not one of them."""
    POLICY_PLATFORM_UNKNOWN = "policy.platform-unknown", VerificationError
    """The release requires an enrolled platform, and this platform is not enrolled."""
    POLICY_TCB_DATE = "policy.tcb-date", VerificationError
    """The platform's TCB level is older than the policy requires."""
    POLICY_TCB_GRACE = "policy.tcb-grace", VerificationError
    """The platform is out of date, and the grace period of the policy has ended or has no known start."""
    POLICY_TCB_POLICY = "policy.tcb-policy", InputError
    """The TCB policy is invalid: its JSON has the wrong form, or it lists a status that a policy must not accept."""
    POLICY_TCB_STATUS = "policy.tcb-status", VerificationError
    """The policy does not accept the platform's TCB status."""

    PROVISIONING_LENGTH = "provisioning.length", VerificationError
    """The secret does not have the length that its use requires."""
    PROVISIONING_REQUEST = "provisioning.request", VerificationError
    """The client did not send a valid provisioning request."""
    PROVISIONING_RESPONSE = "provisioning.response", VerificationError
    """The broker did not send a valid provisioning response."""
    PROVISIONING_TRUNCATED = "provisioning.truncated", VerificationError
    """The peer closed the TLS session before it sent the complete message."""

    RA_TLS_BINDING = "ra-tls.binding", VerificationError
    """The quote is not bound to this certificate's key. The quote may be copied from another certificate."""
    RA_TLS_CERTIFICATE = "ra-tls.certificate", VerificationError
    """The peer's certificate cannot be parsed, or its key has a type that attesters do not use."""
    RA_TLS_CLAIM = "ra-tls.claim", VerificationError
    """The evidence is bound to a different key than the certificate's key."""
    RA_TLS_EVIDENCE = "ra-tls.evidence", VerificationError
    """The certificate extension that carries the evidence is malformed."""
    RA_TLS_NO_EVIDENCE = "ra-tls.no-evidence", VerificationError
    """The certificate carries no attestation evidence (it is an ordinary TLS certificate)."""

    TOKEN_ALGORITHM = "token.algorithm", VerificationError
    """The header names another signature algorithm than the algorithm of the key."""
    TOKEN_AUDIENCE = "token.audience", VerificationError
    """The attestation result is for another audience."""
    TOKEN_CLAIMS = "token.claims", VerificationError
    """A required claim of the attestation result is missing, or has the wrong type or form."""
    TOKEN_CRITICAL = "token.critical", VerificationError
    """The header requires an extension with `crit`. Attestation results have no extensions."""
    TOKEN_DEBUG = "token.debug", VerificationError
    """The attestation result is for an enclave in debug mode."""
    TOKEN_ENCODING = "token.encoding", VerificationError
    """A part of the token is not canonical base64url without padding."""
    TOKEN_EXPIRED = "token.expired", VerificationError
    """The attestation result has expired."""
    TOKEN_FORM = "token.form", VerificationError
    """The token does not consist of three parts that are separated by dots."""
    TOKEN_HEADER = "token.header", VerificationError
    """The header has a missing or an unexpected parameter, for example a key or the address of a key."""
    TOKEN_ISSUER = "token.issuer", VerificationError
    """Another broker issued the attestation result."""
    TOKEN_JSON = "token.json", VerificationError
    """The header or the claims are not a JSON object with unique names."""
    TOKEN_KEY_UNKNOWN = "token.key-unknown", VerificationError
    """The JWK set does not contain the key that the header names."""
    TOKEN_LIFETIME = "token.lifetime", VerificationError
    """The attestation result is valid for longer than the format permits, or expires before it was issued."""
    TOKEN_NONCE = "token.nonce", VerificationError
    """The attestation result does not contain the expected nonce."""
    TOKEN_NOT_YET_VALID = "token.not-yet-valid", VerificationError
    """The attestation result was issued in the future, or is not valid yet."""
    TOKEN_PROFILE = "token.profile", VerificationError
    """The token has another EAT profile."""
    TOKEN_REQUEST = "token.request", VerificationError
    """The request for an attestation result is invalid."""
    TOKEN_RESPONSE = "token.response", VerificationError
    """The broker's response does not contain an attestation result."""
    TOKEN_SIGNATURE = "token.signature", VerificationError
    """The signature of the token is invalid."""
    TOKEN_SIMULATED = "token.simulated", VerificationError
    """The attestation result is for a simulated enclave, which protects nothing."""
    TOKEN_SIZE = "token.size", VerificationError
    """The token is empty or too large."""
    TOKEN_STATUS = "token.status", VerificationError
    """The status of the attestation result is not acceptable, or is better than its trustworthiness vector."""
    TOKEN_TRUNCATED = "token.truncated", VerificationError
    """The peer closed the TLS session before it sent the complete message."""
    TOKEN_TYPE = "token.type", VerificationError
    """The header names another type of token."""
