"""The codes of the errors of sealserve.sgx.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class SgxCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    CERTIFICATE_CHAIN_BROKEN = "certificate-chain.broken", VerificationError
    """A certificate was not issued by the next one in its chain."""
    CERTIFICATE_CHAIN_MALFORMED = "certificate-chain.malformed", VerificationError
    """A certificate chain is not a sequence of PEM certificates and nothing else."""
    CERTIFICATE_CHAIN_REVOKED = "certificate-chain.revoked", VerificationError
    """A certificate authority, or the TCB signing certificate, is revoked."""
    CERTIFICATE_CHAIN_VALIDITY = "certificate-chain.validity", VerificationError
    """A certificate of a chain is not valid at this time."""

    COLLATERAL_CRL = "collateral.crl", VerificationError
    """A revocation list is malformed, not its issuer's, or not about these certificates."""
    COLLATERAL_DUPLICATE_KEY = "collateral.duplicate-key", VerificationError
    """A key occurs twice in a JSON object, so two readers may see two documents."""
    COLLATERAL_EXPIRED = "collateral.expired", VerificationError
    """A part of the collateral is past its next update."""
    COLLATERAL_FMSPC = "collateral.fmspc", VerificationError
    """TCB info is about another kind of processor than the platform's."""
    COLLATERAL_MALFORMED = "collateral.malformed", VerificationError
    """A part of the collateral is not what the PCS serves."""
    COLLATERAL_NOT_YET_VALID = "collateral.not-yet-valid", VerificationError
    """A part of the collateral is from the future."""
    COLLATERAL_PCE_ID = "collateral.pce-id", VerificationError
    """TCB info is about another provisioning certification enclave than the platform's."""
    COLLATERAL_QE_IDENTITY_SIGNATURE = "collateral.qe-identity-signature", VerificationError
    """The TCB signing key did not sign this QE identity."""
    COLLATERAL_ROLLED_BACK = "collateral.rolled-back", VerificationError
    """The collateral is older than what has been seen before, however valid its dates are."""
    COLLATERAL_SIGNER_NOT_TCB_SIGNING = "collateral.signer-not-tcb-signing", VerificationError
    """TCB info or QE identity is signed by a key that is not the vendor's TCB signing key."""
    COLLATERAL_TCB_INFO_SIGNATURE = "collateral.tcb-info-signature", VerificationError
    """The TCB signing key did not sign this TCB info."""

    PCK_CHAIN = "pck.chain", VerificationError
    """A PCK chain is not leaf, PCK CA, root."""
    PCK_ISSUER_NOT_PCK_CA = "pck.issuer-not-pck-ca", VerificationError
    """A PCK certificate's issuer is neither the Processor nor the Platform CA."""
    PCK_MALFORMED = "pck.malformed", VerificationError
    """A PCK certificate's SGX extension is missing or not as specified."""
    PCK_REVOKED = "pck.revoked", VerificationError
    """The vendor has revoked the platform's PCK certificate."""
    PCK_ROOT_NOT_TRUSTED = "pck.root-not-trusted", VerificationError
    """A PCK chain leads to another root than the trusted one."""
    PCK_SVN_INCONSISTENT = "pck.svn-inconsistent", VerificationError
    """A PCK certificate tells its security versions twice, and differently."""

    PCS_NOT_FOUND = "pcs.not-found", UnavailableError
    """The PCS or PCCS knows nothing of this kind of platform."""
    PCS_PORT_TAKEN = "pcs.port-taken", UnavailableError
    """The simulated PCS cannot listen at its address."""
    PCS_STATUS = "pcs.status", UnavailableError
    """The PCS or PCCS answers with an error."""
    PCS_TOO_SLOW = "pcs.too-slow", UnavailableError
    """The PCS or PCCS answers, and does not come to an end."""
    PCS_UNREACHABLE = "pcs.unreachable", UnavailableError
    """The PCS or PCCS does not answer."""
    PCS_URL = "pcs.url", InputError
    """The address of a PCS or PCCS is not one."""

    POLICY_ATTRIBUTES = "policy.attributes", VerificationError
    """The enclave's attributes are not the expected ones."""
    POLICY_DEBUG = "policy.debug", VerificationError
    """A debug enclave: the host can read its memory."""
    POLICY_ISV_PROD_ID = "policy.isv-prod-id", VerificationError
    """The enclave has another product id."""
    POLICY_ISV_SVN = "policy.isv-svn", VerificationError
    """The enclave's security version is older than the release asks for."""
    POLICY_MR_SIGNER = "policy.mr-signer", VerificationError
    """The enclave was signed by another key."""
    POLICY_PLATFORM_KIND = "policy.platform-kind", VerificationError
    """The quote comes from another kind of platform than the release is made for."""
    POLICY_REFERENCE_VALUES = "policy.reference-values", InputError
    """Reference values that would admit more than the owner can mean: empty, out of range, or with DEBUG."""
    POLICY_SIMULATED_QUOTE = "policy.simulated-quote", VerificationError
    """A simulated platform asks for the key of a release for SGX machines."""

    QUOTE_ATTESTATION_KEY = "quote.attestation-key", VerificationError
    """The attestation key is not the one that the quoting enclave vouches for."""
    QUOTE_ATTESTATION_KEY_TYPE = "quote.attestation-key-type", VerificationError
    """A quote whose attestation key is not ECDSA P-256."""
    QUOTE_CERTIFICATION_DATA = "quote.certification-data", VerificationError
    """A quote that does not carry its PCK certificate chain."""
    QUOTE_DEBUG = "quote.debug", VerificationError
    """The quoted enclave, or the quoting enclave itself, is in debug mode: the host can read its memory."""
    QUOTE_MALFORMED = "quote.malformed", VerificationError
    """The lengths inside a quote contradict each other."""
    QUOTE_QE_IDENTITY = "quote.qe-identity", VerificationError
    """The quoting enclave is not the one that the vendor describes."""
    QUOTE_QE_REPORT_SIGNATURE = "quote.qe-report-signature", VerificationError
    """The platform's PCK did not sign the quoting enclave's report."""
    QUOTE_QE_VENDOR = "quote.qe-vendor", VerificationError
    """A quote by another vendor's quoting enclave."""
    QUOTE_SIGNATURE = "quote.signature", VerificationError
    """The attestation key did not sign the quote's header and report."""
    QUOTE_TEE_TYPE = "quote.tee-type", VerificationError
    """A quote that is not of SGX."""
    QUOTE_TRAILING_BYTES = "quote.trailing-bytes", VerificationError
    """There are bytes after the quote, which no signature covers."""
    QUOTE_TRUNCATED = "quote.truncated", VerificationError
    """A quote ends before its fields do."""
    QUOTE_VERIFIER = "quote.verifier", VerificationError
    """dcap-qvl refused for a reason that is not in the table, or failed."""
    QUOTE_VERSION = "quote.version", VerificationError
    """A quote of another version than 3."""

    QUOTING_REFUSED = "quoting.refused", UnavailableError
    """The quoting enclave refused the report."""
    QUOTING_SOCKET_TAKEN = "quoting.socket-taken", UnavailableError
    """Something else is at the socket's path."""
    QUOTING_UNAVAILABLE = "quoting.unavailable", UnavailableError
    """Nobody makes quotes at the socket."""

    REPORT_LENGTH = "report.length", VerificationError
    """A report does not have 384 bytes."""
    REPORT_RESERVED = "report.reserved", VerificationError
    """A reserved field of a report is not zero: it says something that this program does not know."""

    SIGNING_KEY_INVALID = "signing-key.invalid", InputError
    """The file holds no enclave signing key: an unencrypted PEM with RSA, 3072 bits, exponent 3."""
    SIGNING_KEY_MISSING = "signing-key.missing", InputError
    """There is no enclave signing key at that path."""

    SIGSTRUCT_DATE = "sigstruct.date", VerificationError
    """The signing date is no date."""
    SIGSTRUCT_HEADER = "sigstruct.header", VerificationError
    """A field with a fixed value (header, header2, vendor) has another one: this is no SIGSTRUCT."""
    SIGSTRUCT_KEY = "sigstruct.key", VerificationError
    """The signer's key is not RSA with 3072 bits and exponent 3."""
    SIGSTRUCT_LENGTH = "sigstruct.length", VerificationError
    """A SIGSTRUCT does not have 1808 bytes."""
    SIGSTRUCT_QUOTIENT = "sigstruct.quotient", VerificationError
    """Q1 or Q2 is not what the processor expects; EINIT would refuse the enclave."""
    SIGSTRUCT_RESERVED = "sigstruct.reserved", VerificationError
    """A reserved field is not zero."""
    SIGSTRUCT_SIGNATURE = "sigstruct.signature", VerificationError
    """The signature does not verify: the SIGSTRUCT was changed after it was signed."""

    TCB_NO_LEVEL = "tcb.no-level", VerificationError
    """The platform's security versions are below every TCB level that the vendor lists."""
    TCB_REVOKED = "tcb.revoked", VerificationError
    """The vendor has revoked this TCB level: its keys may be known to others."""

    TRUST_ANCHOR_INVALID = "trust-anchor.invalid", InputError
    """The given root certificate cannot be a trust anchor of its kind."""
