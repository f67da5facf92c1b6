"""Quotes: an enclave's report, signed by the quoting enclave of a platform (version 3, ECDSA P-256).

The layout: header and report (signed by the attestation key), the length of the rest, the signatures, the attestation
key, the quoting enclave's own report, and the PCK certificate chain.

Source: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4 (quote format version 3).
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.report import REPORT_SIZE, EnclaveReport

SPEC_VERSION: Final = 3
ECDSA_P256: Final = 2
SGX: Final = 0
INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
PCK_CHAIN: Final = 5
QE_AUTHENTICATION_DATA_SIZE: Final = 32

# version, attestation key type, TEE type, QE SVN, PCE SVN, QE vendor id, user data; integers are little-endian.
_HEADER: Final = struct.Struct("<HHIHH16s20s")
_SIGNED_SIZE: Final = _HEADER.size + REPORT_SIZE
_LENGTH: Final = struct.Struct("<I")
# Signature of header and report, attestation key (both raw, 64), QE report, its signature, size of the following data.
_SIGNATURES: Final = struct.Struct(f"<64s64s{REPORT_SIZE}s64sH")
_CERTIFICATION: Final = struct.Struct("<HI")  # type, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A parsed quote. None of its content is verified.

    Args:
        report: The report of the quoted enclave.
        qe_svn: The security version of the quoting enclave.
        pce_svn: The security version of the provisioning certification enclave.
        user_data: 20 bytes. The first 16 identify the quoting enclave.
        signature: The signature of header and report by the attestation key: raw r and s, 64 bytes.
        attestation_key: P-256 public key: raw x and y, 64 bytes.
        qe_report: The quoting enclave's report. Its report data is bound to the attestation key.
        qe_report_signature: The signature of ``qe_report`` by the PCK: raw r and s, 64 bytes.
        qe_authentication_data: 32 bytes that the report data also covers.
        certification_data: The PEM chain, leaf first, with or without a final NUL.
    """

    report: EnclaveReport
    qe_svn: int
    pce_svn: int
    user_data: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    qe_authentication_data: bytes
    certification_data: bytes

    @property
    def pck_chain_pem(self) -> bytes:
        """The PCK certificate chain without the final NUL that Intel's library appends."""
        return self.certification_data.removesuffix(b"\0")

    def signed_bytes(self) -> bytes:
        """Return the bytes that ``signature`` covers: header and report, 432 bytes."""
        header = _HEADER.pack(
            SPEC_VERSION, ECDSA_P256, SGX, self.qe_svn, self.pce_svn, INTEL_QE_VENDOR_ID, self.user_data
        )
        return header + self.report.to_bytes()

    def to_bytes(self) -> bytes:
        """Return the serialized quote."""
        authentication = self.qe_authentication_data
        rest = (
            _SIGNATURES.pack(
                self.signature,
                self.attestation_key,
                self.qe_report.to_bytes(),
                self.qe_report_signature,
                len(authentication),
            )
            + authentication
            + _CERTIFICATION.pack(PCK_CHAIN, len(self.certification_data))
            + self.certification_data
        )
        return self.signed_bytes() + _LENGTH.pack(len(rest)) + rest

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a quote. ``raw`` must have exactly the length that the quote specifies.

        Raises:
            VerificationError: `quote.truncated` if ``raw`` is shorter.
            VerificationError: `quote.trailing-bytes` if ``raw`` is longer.
            VerificationError: `quote.malformed` if the inner lengths are inconsistent.
            VerificationError: `quote.version` if the version is not 3.
            VerificationError: `quote.attestation-key-type` if the key is not ECDSA P-256.
            VerificationError: `quote.tee-type` if the quote is not for SGX.
            VerificationError: `quote.qe-vendor` if the quoting enclave is not Intel's.
            VerificationError: `quote.certification-data` if the quote does not contain a PCK certificate chain.
            VerificationError: `report.reserved` if a reserved field of a report is not zero.
        """
        if len(raw) < _SIGNED_SIZE + _LENGTH.size:
            raise SgxCode.QUOTE_TRUNCATED.error(
                f"The quote is truncated: expected at least {_SIGNED_SIZE + _LENGTH.size} bytes, got {len(raw)}."
            )
        version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack_from(raw)
        _check_header(version, key_type, tee_type, vendor)
        (rest_size,) = _LENGTH.unpack_from(raw, _SIGNED_SIZE)
        rest = raw[_SIGNED_SIZE + _LENGTH.size :]
        if len(rest) < rest_size:
            raise SgxCode.QUOTE_TRUNCATED.error(
                f"The quote is truncated: expected {rest_size} bytes of signature data, got {len(rest)}."
            )
        if len(rest) > rest_size:
            raise SgxCode.QUOTE_TRAILING_BYTES.error(
                f"The quote has trailing bytes: expected {len(raw) - len(rest) + rest_size} bytes, got "
                f"{len(rest) - rest_size} more."
            )
        if rest_size < _SIGNATURES.size:
            raise SgxCode.QUOTE_MALFORMED.error(
                f"The quote is malformed: expected {_SIGNATURES.size} or more bytes of signature data, got {rest_size}."
            )
        signature, key, qe_report, qe_report_signature, authentication_size = _SIGNATURES.unpack_from(rest)
        if authentication_size != QE_AUTHENTICATION_DATA_SIZE:
            raise SgxCode.QUOTE_MALFORMED.error(
                f"The quote is malformed: expected {QE_AUTHENTICATION_DATA_SIZE} bytes of QE authentication data, "
                f"got {authentication_size}."
            )
        certification = _SIGNATURES.size + authentication_size
        return cls(
            report=EnclaveReport.parse(raw[_HEADER.size : _SIGNED_SIZE]),
            qe_svn=qe_svn,
            pce_svn=pce_svn,
            user_data=user_data,
            signature=signature,
            attestation_key=key,
            qe_report=EnclaveReport.parse(qe_report),
            qe_report_signature=qe_report_signature,
            qe_authentication_data=rest[_SIGNATURES.size : certification],
            certification_data=_parse_certification(rest[certification:]),
        )


def _check_header(version: int, key_type: int, tee_type: int, vendor: bytes) -> None:
    if version != SPEC_VERSION:
        raise SgxCode.QUOTE_VERSION.error(
            f"The quote has an unsupported version: expected {SPEC_VERSION}, got {version}."
        )
    if key_type != ECDSA_P256:
        raise SgxCode.QUOTE_ATTESTATION_KEY_TYPE.error(
            f"The quote has an unsupported attestation key type: expected {ECDSA_P256} (ECDSA P-256), got {key_type}."
        )
    if tee_type != SGX:
        raise SgxCode.QUOTE_TEE_TYPE.error(
            f"The quote is not for an SGX enclave: expected TEE type {SGX} (SGX), got {tee_type:#x}."
        )
    if vendor != INTEL_QE_VENDOR_ID:
        raise SgxCode.QUOTE_QE_VENDOR.error(
            f"The quote is from an unknown quoting enclave: expected QE vendor id {INTEL_QE_VENDOR_ID.hex()}, "
            f"got {vendor.hex()}."
        )


def _parse_certification(rest: bytes) -> bytes:
    if len(rest) < _CERTIFICATION.size:
        raise SgxCode.QUOTE_MALFORMED.error(
            f"The quote is malformed: expected at least {_CERTIFICATION.size} bytes of certification data, "
            f"got {len(rest)}."
        )
    kind, size = _CERTIFICATION.unpack_from(rest)
    if kind != PCK_CHAIN:
        raise SgxCode.QUOTE_CERTIFICATION_DATA.error(
            f"The quote lacks its PCK certificate chain: expected certification data of type {PCK_CHAIN}, got type "
            f"{kind}. The host lacks the quote provider library.",
            hint="Install libsgx-dcap-default-qpl (or the cloud's library) on the host, configure its PCCS, "
            "and restart aesmd.",
        )
    data = rest[_CERTIFICATION.size :]
    if len(data) != size:
        raise SgxCode.QUOTE_MALFORMED.error(
            f"The quote is malformed: expected {size} bytes of certification data, got {len(data)}."
        )
    return data
