"""Error codes of the package `sealserve.attestation`.

An error that code catches by type, or that carries data, has its own class. That class defines the code.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class AttestationCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    BROKER_NO_TRUST_ANCHOR = "broker.no-trust-anchor", UnavailableError
    """The broker was started without the trust anchor for this kind of platform."""

    POLICY_ADVISORY = "policy.advisory", VerificationError
    """A security advisory affects the platform, and the policy does not accept that advisory."""
    POLICY_EMPTY = "policy.empty", InputError
    """The appraisal policy contains no values. An empty policy is an error; it does not accept everything."""
    POLICY_MR_ENCLAVE_UNKNOWN = "policy.mr-enclave-unknown", VerificationError
    """No registered release contains an enclave with this MRENCLAVE."""
    POLICY_PLATFORM_UNKNOWN = "policy.platform-unknown", VerificationError
    """The release requires an enrolled platform, and this platform is not enrolled."""
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
