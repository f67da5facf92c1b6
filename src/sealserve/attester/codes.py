"""Error codes of sealserve.attester."""

from sealserve.errors import ErrorCode, UnavailableError, VerificationError


class AttesterCode(ErrorCode):
    """Code and family of each error. The docstring below a member describes the error."""

    DEVICE = "attester.device", UnavailableError
    """The attestation device cannot be read or written, or did not accept the key."""
    ENVIRONMENT = "attester.environment", VerificationError
    """A measured variable that the enclave's program needs is missing or invalid."""
    QUOTE = "attester.quote", UnavailableError
    """The attestation device did not return a quote. The quoting service of the machine may be down."""
