"""Quotes: an enclave's report, signed by a platform's quoting enclave (version 3, ECDSA P-256).

Layout of the whole: header and report (signed by the attestation key), then the length of what follows, then the
signatures, the attestation key, the quoting enclave's own report, and the PCK certificate chain that it leads to.

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
# signature of header and report, attestation key (both raw, 64), QE report, its signature, size of the data after it.
_SIGNATURES: Final = struct.Struct(f"<64s64s{REPORT_SIZE}s64sH")
_CERTIFICATION: Final = struct.Struct("<HI")  # type, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A parsed quote. Nothing in it is verified.

    Args:
        report: What the quote is about.
        qe_svn: The quoting enclave's security version.
        pce_svn: The provisioning certification enclave's security version.
        user_data: 20 bytes; the first 16 tell the quoting enclave apart from others.
        signature: By the attestation key over header and report: raw r and s, 64 bytes.
        attestation_key: P-256 public key: raw x and y, 64 bytes.
        qe_report: The quoting enclave's report, whose report data binds the attestation key.
        qe_report_signature: By the PCK over ``qe_report``: raw r and s, 64 bytes.
        qe_authentication_data: 32 bytes that the report data binds too.
        certification_data: PEM chain, leaf first, with a NUL at its end or not.
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
        """The PCK certificate chain without the NUL that Intel's library puts at its end."""
        return self.certification_data.removesuffix(b"\0")

    def signed_bytes(self) -> bytes:
        """Return what ``signature`` is over: header and report, 432 bytes."""
        header = _HEADER.pack(
            SPEC_VERSION, ECDSA_P256, SGX, self.qe_svn, self.pce_svn, INTEL_QE_VENDOR_ID, self.user_data
        )
        return header + self.report.to_bytes()

    def to_bytes(self) -> bytes:
        """Return the quote as it travels."""
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
        """Read a quote of exactly the length that it says.

        Raises:
            VerificationError: `quote.truncated`: It is shorter.
            VerificationError: `quote.trailing-bytes`: It is longer.
            VerificationError: `quote.malformed`: Its inner lengths do not add up.
            VerificationError: `quote.version`: Not version 3.
            VerificationError: `quote.attestation-key-type`: Not ECDSA P-256.
            VerificationError: `quote.tee-type`: Not SGX.
            VerificationError: `quote.qe-vendor`: Not Intel's quoting enclave.
            VerificationError: `quote.certification-data`: No PCK certificate chain in it.
            VerificationError: `report.reserved`: A reserved field of a report is not zero.
        """
        if len(raw) < _SIGNED_SIZE + _LENGTH.size:
            raise SgxCode.QUOTE_TRUNCATED.error(
                f"Quote: expected at least {_SIGNED_SIZE + _LENGTH.size} bytes, got {len(raw)}."
            )
        version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack_from(raw)
        _check_header(version, key_type, tee_type, vendor)
        (rest_size,) = _LENGTH.unpack_from(raw, _SIGNED_SIZE)
        rest = raw[_SIGNED_SIZE + _LENGTH.size :]
        if len(rest) < rest_size:
            raise SgxCode.QUOTE_TRUNCATED.error(
                f"Quote: expected {rest_size} bytes of signature data, got {len(rest)}."
            )
        if len(rest) > rest_size:
            raise SgxCode.QUOTE_TRAILING_BYTES.error(
                f"Quote: expected {len(raw) - len(rest) + rest_size} bytes, got {len(rest) - rest_size} more."
            )
        if rest_size < _SIGNATURES.size:
            raise SgxCode.QUOTE_MALFORMED.error(
                f"Quote: {rest_size} bytes of signature data cannot hold the signatures."
            )
        signature, key, qe_report, qe_report_signature, authentication_size = _SIGNATURES.unpack_from(rest)
        if authentication_size != QE_AUTHENTICATION_DATA_SIZE:
            raise SgxCode.QUOTE_MALFORMED.error(
                f"Quote: expected {QE_AUTHENTICATION_DATA_SIZE} bytes of QE authentication data, "
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
        raise SgxCode.QUOTE_VERSION.error(f"Quote: expected version {SPEC_VERSION}, got {version}.")
    if key_type != ECDSA_P256:
        raise SgxCode.QUOTE_ATTESTATION_KEY_TYPE.error(
            f"Quote: expected attestation key type {ECDSA_P256} (ECDSA P-256), got {key_type}."
        )
    if tee_type != SGX:
        raise SgxCode.QUOTE_TEE_TYPE.error(f"Quote: expected TEE type {SGX} (SGX), got {tee_type:#x}.")
    if vendor != INTEL_QE_VENDOR_ID:
        raise SgxCode.QUOTE_QE_VENDOR.error(
            f"Quote: expected QE vendor id {INTEL_QE_VENDOR_ID.hex()}, got {vendor.hex()}."
        )


def _parse_certification(rest: bytes) -> bytes:
    if len(rest) < _CERTIFICATION.size:
        raise SgxCode.QUOTE_MALFORMED.error(
            "Quote: no room for the certification data after the QE authentication data."
        )
    kind, size = _CERTIFICATION.unpack_from(rest)
    if kind != PCK_CHAIN:
        raise SgxCode.QUOTE_CERTIFICATION_DATA.error(
            f"Quote: expected certification data of type {PCK_CHAIN} (a PCK certificate chain), got type {kind}: "
            "the host lacks the quote provider library.",
            hint="On the host: install libsgx-dcap-default-qpl (or the cloud's own), name its PCCS, restart aesmd.",
        )
    data = rest[_CERTIFICATION.size :]
    if len(data) != size:
        raise SgxCode.QUOTE_MALFORMED.error(f"Quote: expected {size} bytes of certification data, got {len(data)}.")
    return data
