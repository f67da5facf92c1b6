"""Error codes of the package `sealserve.sgx`.

An error that code catches by type, or that carries data, has its own class. That class defines the code.
"""

from collections.abc import Mapping
from typing import Final

from sealserve.errors import ErrorCode, InputError, SealserveError, UnavailableError, VerificationError


class SgxCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    CERTIFICATE_CHAIN_BROKEN = "certificate-chain.broken", VerificationError
    """A certificate was not issued by the next certificate in its chain."""
    CERTIFICATE_CHAIN_MALFORMED = "certificate-chain.malformed", VerificationError
    """The certificate chain is not a plain sequence of PEM certificates, or it contains other data."""
    CERTIFICATE_CHAIN_REVOKED = "certificate-chain.revoked", VerificationError
    """A certificate authority in the chain, or the TCB signing certificate, is revoked."""
    CERTIFICATE_CHAIN_VALIDITY = "certificate-chain.validity", VerificationError
    """A certificate of the chain is not valid at the time of the verification."""

    COLLATERAL_CRL = "collateral.crl", VerificationError
    """A revocation list (CRL) is malformed, has the wrong issuer, or does not cover these certificates."""
    COLLATERAL_DUPLICATE_KEY = "collateral.duplicate-key", VerificationError
    """A key occurs twice in a JSON object, so two parsers could read different values."""
    COLLATERAL_EXPIRED = "collateral.expired", VerificationError
    """A part of the collateral is past its next-update time."""
    COLLATERAL_FMSPC = "collateral.fmspc", VerificationError
    """The TCB info is for a different processor family (FMSPC) than the platform's."""
    COLLATERAL_MALFORMED = "collateral.malformed", VerificationError
    """A part of the collateral does not have the format that the PCS specifies."""
    COLLATERAL_NOT_YET_VALID = "collateral.not-yet-valid", VerificationError
    """A part of the collateral has an issue date in the future."""
    COLLATERAL_PCE_ID = "collateral.pce-id", VerificationError
    """The TCB info is for a different provisioning certification enclave (PCE) than the platform's."""
    COLLATERAL_QE_IDENTITY_SIGNATURE = "collateral.qe-identity-signature", VerificationError
    """The signature of the QE identity was not made by the TCB signing key."""
    COLLATERAL_ROLLED_BACK = "collateral.rolled-back", VerificationError
    """The collateral is older than collateral that the broker accepted before, even though its dates are valid."""
    COLLATERAL_SIGNER_NOT_TCB_SIGNING = "collateral.signer-not-tcb-signing", VerificationError
    """The TCB info or QE identity is signed by a key other than the vendor's TCB signing key."""
    COLLATERAL_TCB_INFO_SIGNATURE = "collateral.tcb-info-signature", VerificationError
    """The signature of the TCB info was not made by the TCB signing key."""

    PCK_CHAIN = "pck.chain", VerificationError
    """The PCK certificate chain does not consist of leaf, PCK CA and root."""
    PCK_ISSUER_NOT_PCK_CA = "pck.issuer-not-pck-ca", VerificationError
    """The issuer of the PCK certificate is neither the PCK Processor CA nor the PCK Platform CA."""
    PCK_MALFORMED = "pck.malformed", VerificationError
    """The SGX extension of the PCK certificate is missing or violates its specification."""
    PCK_REVOKED = "pck.revoked", VerificationError
    """The vendor has revoked the PCK certificate of the platform."""
    PCK_ROOT_NOT_TRUSTED = "pck.root-not-trusted", VerificationError
    """The PCK certificate chain ends in a root that is not the trusted root."""
    PCK_SVN_INCONSISTENT = "pck.svn-inconsistent", VerificationError
    """The PCK certificate contains its security versions (SVNs) twice, with different values."""

    PCS_CA_FILE = "pcs.ca-file", InputError
    """The CA certificate for the PCCS (`broker.collateral_ca_file`) cannot be read, or is not a PEM certificate."""
    PCS_NOT_FOUND = "pcs.not-found", UnavailableError
    """The PCS or PCCS does not have collateral for this kind of platform."""
    PCS_PORT_TAKEN = "pcs.port-taken", UnavailableError
    """The simulated PCS cannot listen on its address."""
    PCS_STATUS = "pcs.status", UnavailableError
    """The PCS or PCCS replied with an HTTP error status."""
    PCS_TOO_SLOW = "pcs.too-slow", UnavailableError
    """The PCS or PCCS replied, but did not complete its reply within the time limit."""
    PCS_UNREACHABLE = "pcs.unreachable", UnavailableError
    """The PCS or PCCS does not reply."""
    PCS_URL = "pcs.url", InputError
    """The configured PCS or PCCS address is not a valid URL, or names a version of the API other than 4."""

    POLICY_ATTRIBUTES = "policy.attributes", VerificationError
    """The enclave's attributes differ from the reference values."""
    POLICY_CONFIG_ID = "policy.config-id", VerificationError
    """The enclave was started with another configuration (CONFIGID or CONFIGSVN) than the policy requires."""
    POLICY_DEBUG = "policy.debug", VerificationError
    """The enclave is in debug mode, so the host can read its memory."""
    POLICY_EVIDENCE_RULES = "policy.evidence-rules", InputError
    """The stored policy has rules for a kind of evidence that the verifier does not support."""
    POLICY_FMSPC = "policy.fmspc", VerificationError
    """The policy does not accept this kind of processor (FMSPC)."""
    POLICY_ISV_PROD_ID = "policy.isv-prod-id", VerificationError
    """The enclave's product id (ISVPRODID) differs from the reference value."""
    POLICY_ISV_SVN = "policy.isv-svn", VerificationError
    """The enclave's security version (ISVSVN) is lower than the minimum of the release."""
    POLICY_KSS = "policy.kss", VerificationError
    """The enclave's use of Key Separation and Sharing (KSS), or one of its KSS identifiers, differs from the policy."""
    POLICY_MISC_SELECT = "policy.misc-select", VerificationError
    """The enclave's MISCSELECT differs from the policy."""
    POLICY_MR_SIGNER = "policy.mr-signer", VerificationError
    """The enclave was signed with a different key (MRSIGNER) than the reference value."""
    POLICY_PLATFORM_KIND = "policy.platform-kind", VerificationError
    """The quote comes from a different kind of platform than the release was built for."""
    POLICY_REFERENCE_VALUES = "policy.reference-values", InputError
    """The reference values are empty, out of range or permit DEBUG, so they would accept unintended enclaves."""
    POLICY_SIMULATED_QUOTE = "policy.simulated-quote", VerificationError
    """A simulated platform requested the key of a release that was built for SGX machines."""

    QUOTE_ATTESTATION_KEY = "quote.attestation-key", VerificationError
    """The quoting enclave's report is not bound to the attestation key in the quote."""
    QUOTE_ATTESTATION_KEY_TYPE = "quote.attestation-key-type", VerificationError
    """The attestation key of the quote is not an ECDSA P-256 key."""
    QUOTE_CERTIFICATION_DATA = "quote.certification-data", VerificationError
    """The quote does not contain its PCK certificate chain."""
    QUOTE_DEBUG = "quote.debug", VerificationError
    """The quoted enclave or the quoting enclave is in debug mode, so the host can read its memory."""
    QUOTE_MALFORMED = "quote.malformed", VerificationError
    """The length fields of the quote contradict each other."""
    QUOTE_QE_IDENTITY = "quote.qe-identity", VerificationError
    """The quoting enclave does not match the vendor's QE identity."""
    QUOTE_QE_REPORT_SIGNATURE = "quote.qe-report-signature", VerificationError
    """The quoting enclave's report is not signed with the platform's PCK key."""
    QUOTE_QE_VENDOR = "quote.qe-vendor", VerificationError
    """The quote was made by a quoting enclave of a different vendor."""
    QUOTE_SIGNATURE = "quote.signature", VerificationError
    """The signature over the quote's header and report was not made by the attestation key."""
    QUOTE_TEE_TYPE = "quote.tee-type", VerificationError
    """The quote is not for an SGX enclave (wrong TEE type)."""
    QUOTE_TRAILING_BYTES = "quote.trailing-bytes", VerificationError
    """The quote is followed by extra bytes that no signature covers."""
    QUOTE_TRUNCATED = "quote.truncated", VerificationError
    """The quote ends before its last field."""
    QUOTE_VERIFIER = "quote.verifier", VerificationError
    """dcap-qvl rejected the quote for an unlisted reason, or failed."""
    QUOTE_VERSION = "quote.version", VerificationError
    """The version of the quote is not 3."""

    QUOTING_REFUSED = "quoting.refused", UnavailableError
    """The quoting enclave rejected the report."""
    QUOTING_SOCKET_TAKEN = "quoting.socket-taken", UnavailableError
    """The socket path of the quoting service is already in use."""
    QUOTING_UNAVAILABLE = "quoting.unavailable", UnavailableError
    """No quoting service listens on the socket."""

    REPORT_LENGTH = "report.length", VerificationError
    """The report does not have a length of 384 bytes."""
    REPORT_RESERVED = "report.reserved", VerificationError
    """A reserved field of the report is not zero, so it may carry information that sealserve cannot interpret."""

    SIGNING_KEY_INVALID = "signing-key.invalid", InputError
    """The file does not contain an enclave signing key: an unencrypted PEM key with RSA, 3072 bits, exponent 3."""
    SIGNING_KEY_MISSING = "signing-key.missing", InputError
    """The file of the enclave signing key does not exist."""

    SIGSTRUCT_DATE = "sigstruct.date", VerificationError
    """The signing date of the SIGSTRUCT is not a valid date."""
    SIGSTRUCT_HEADER = "sigstruct.header", VerificationError
    """A fixed field (header, header2, vendor) has an unexpected value, so the file is not a SIGSTRUCT."""
    SIGSTRUCT_KEY = "sigstruct.key", VerificationError
    """The signer's key in the SIGSTRUCT is not RSA with 3072 bits and exponent 3."""
    SIGSTRUCT_LENGTH = "sigstruct.length", VerificationError
    """The SIGSTRUCT does not have a length of 1808 bytes."""
    SIGSTRUCT_QUOTIENT = "sigstruct.quotient", VerificationError
    """Q1 or Q2 differs from the value that the processor computes, so EINIT would reject the enclave."""
    SIGSTRUCT_RESERVED = "sigstruct.reserved", VerificationError
    """A reserved field of the SIGSTRUCT is not zero."""
    SIGSTRUCT_SIGNATURE = "sigstruct.signature", VerificationError
    """The signature is invalid: the SIGSTRUCT was changed after it was signed."""

    TCB_NO_LEVEL = "tcb.no-level", VerificationError
    """The platform's security versions are below the lowest TCB level that the vendor lists."""
    TCB_REVOKED = "tcb.revoked", VerificationError
    """The vendor has revoked the platform's TCB level, because its keys may be compromised."""

    TRUST_ANCHOR_INVALID = "trust-anchor.invalid", InputError
    """The given root certificate cannot be used as a trust anchor for this kind of platform."""

    def error(self, message: str, *, hint: str | None = None) -> SealserveError:
        """Return an error with this code; see `ErrorCode.error`.

        Args:
            message: What failed.
            hint: The next step. `None` means the hint of the code, or else of the code's family (`HINTS`).
        """
        family, _, _ = self.value.partition(".")
        return super().error(message, hint=hint or HINTS.get(self.value) or HINTS.get(family))


HINTS: Final[Mapping[str, str]] = {
    "certificate-chain": "Get the chain again from the processor vendor or its PCCS, and pass it on unchanged.",
    "certificate-chain.validity": "Check the clock of the verifying machine, and update the DCAP packages of the host.",
    "collateral": "Download the collateral again. Check that broker.collateral_url is the vendor's PCS or a PCCS.",
    "collateral.not-yet-valid": "Check the clock of the verifying machine.",
    "collateral.rolled-back": "Update the PCCS, or set broker.collateral_url to a service with newer collateral.",
    "pck": "Update the DCAP packages and the PCCS of the host, so that the quote has the vendor's PCK certificate.",
    "pck.revoked": "Use another machine: the vendor has revoked the PCK certificate of this one.",
    "quote": "Create the quote again on an SGX machine with current DCAP packages, and pass it on unchanged.",
    "quote.debug": "Build the enclave without debugging, and update the DCAP packages of the host.",
    "quote.qe-identity": "Update the DCAP packages of the host: its quoting enclave is outdated or not the vendor's.",
    "quote.qe-vendor": "Use Intel's quoting enclave: install the DCAP packages of Intel on the host.",
    "report": "Pass on the report of an SGX enclave unchanged: 384 bytes, as the EREPORT instruction writes it.",
    "sigstruct": "Build and sign the enclave again: `sealserve enclave build`.",
    "tcb": "Update the firmware and the microcode of the host, then create the quote again.",
}
"""The next step by code, or by family for other codes. A specific hint of an error takes precedence."""
