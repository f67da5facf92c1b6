"""The codes of the errors of sealserve.attestation.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class AttestationCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    BROKER_NO_TRUST_ANCHOR = "broker.no-trust-anchor", UnavailableError
    """The broker was started without the trust anchor for this kind of platform."""

    POLICY_ADVISORY = "policy.advisory", VerificationError
    """The platform is open to a security advisory that the policy does not accept."""
    POLICY_EMPTY = "policy.empty", InputError
    """A policy that names nothing: it is an error, and does not accept everything."""
    POLICY_MR_ENCLAVE_UNKNOWN = "policy.mr-enclave-unknown", VerificationError
    """No release has this MRENCLAVE."""
    POLICY_PLATFORM_UNKNOWN = "policy.platform-unknown", VerificationError
    """The release wants an enrolled platform, and this one is not."""
    POLICY_TCB_POLICY = "policy.tcb-policy", InputError
    """A TCB policy that cannot be used: no JSON of the expected form, or a status that no policy can accept."""
    POLICY_TCB_STATUS = "policy.tcb-status", VerificationError
    """The platform's TCB status is not among those that the policy accepts."""

    PROVISIONING_LENGTH = "provisioning.length", VerificationError
    """The secret is not as long as its use demands."""
    PROVISIONING_REQUEST = "provisioning.request", VerificationError
    """The client sent something else than the request."""
    PROVISIONING_RESPONSE = "provisioning.response", VerificationError
    """The server sent something else than the response."""
    PROVISIONING_TRUNCATED = "provisioning.truncated", VerificationError
    """The peer closed the session before it had sent everything."""

    RA_TLS_BINDING = "ra-tls.binding", VerificationError
    """The quote vouches for something else than this certificate: it may have been copied from another one."""
    RA_TLS_CERTIFICATE = "ra-tls.certificate", VerificationError
    """The peer's certificate cannot be read, or its key is of a kind that no attester uses."""
    RA_TLS_CLAIM = "ra-tls.claim", VerificationError
    """The evidence vouches for another key than the certificate's."""
    RA_TLS_EVIDENCE = "ra-tls.evidence", VerificationError
    """The extension with the evidence is malformed."""
    RA_TLS_NO_EVIDENCE = "ra-tls.no-evidence", VerificationError
    """The certificate is an ordinary one: it carries no quote."""
