"""Reference values: the expected properties of one SGX enclave of a release, or of all enclaves of a product.

The same MRENCLAVE can be signed again with other properties (DEBUG, or another SVN). Therefore MRSIGNER, ISVPRODID,
ISVSVN and the attributes are always checked as well.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from sealserve.attestation.claims import Measurement
from sealserve.attestation.codes import AttestationCode
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.report import AttributeFlags, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.sigstruct import Sigstruct

_DIGESTS: Final = ("mr_enclave", "mr_signer")
_MASKED: Final = ("attribute_flags", "attribute_flags_mask", "xfrm", "xfrm_mask")
_ALL_BITS: Final = (1 << 64) - 1
_NEVER_FREE: Final = AttributeFlags.INIT | AttributeFlags.DEBUG | AttributeFlags.MODE64BIT
_X87_AND_SSE: Final = 0x3
_PRODUCT_CHOOSES: Final = AttributeFlags.KSS | AttributeFlags.CET | AttributeFlags.AEX_NOTIFY
_PRODUCT_DOMAIN: Final = b"sealserve SGX product v1\n"
_DIGEST_SIZE: Final = 32
_UINT16_MAX: Final = (1 << 16) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """The expected properties of one enclave of a release.

    Args:
        mr_enclave: MRENCLAVE, 32 bytes.
        mr_signer: MRSIGNER, 32 bytes.
        isv_prod_id: The exact product id.
        isv_svn: The minimum security version.
        attribute_flags: The exact flags where ``attribute_flags_mask`` has a bit. Never includes DEBUG.
        attribute_flags_mask: The flags to compare. Must include INIT, DEBUG and MODE64BIT.
        xfrm: The exact extended processor state (XFRM) where ``xfrm_mask`` has a bit.
        xfrm_mask: The bits of XFRM to compare. Must include x87 and SSE.

    Raises:
        InputError: `policy.reference-values` if a value is empty, out of range, or would accept a debug enclave.
    """

    mr_enclave: MrEnclave
    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int
    attribute_flags: int = AttributeFlags.INIT | AttributeFlags.MODE64BIT
    attribute_flags_mask: int = _ALL_BITS
    xfrm: int = _X87_AND_SSE
    xfrm_mask: int = _X87_AND_SSE

    @classmethod
    def of_sigstruct(cls, sigstruct: Sigstruct) -> Self:
        """Return the reference values of the enclave that ``sigstruct`` launches. Verify its signature first.

        The masks are the masks of EINIT. The platform decides the other bits (AVX and wider).
        """
        return cls(
            mr_enclave=sigstruct.mr_enclave,
            mr_signer=sigstruct.mr_signer,
            isv_prod_id=sigstruct.isv_prod_id,
            isv_svn=sigstruct.isv_svn,
            attribute_flags=sigstruct.attributes.flags | AttributeFlags.INIT,
            attribute_flags_mask=sigstruct.attribute_mask.flags,
            xfrm=sigstruct.attributes.xfrm,
            xfrm_mask=sigstruct.attribute_mask.xfrm,
        )

    def __post_init__(self) -> None:
        for name, digest in (("mr_enclave", self.mr_enclave), ("mr_signer", self.mr_signer)):
            if len(digest) != _DIGEST_SIZE:
                raise SgxCode.POLICY_REFERENCE_VALUES.error(
                    f"The reference value {name} is invalid: expected {_DIGEST_SIZE} bytes, got {len(digest)}."
                )
            if not any(digest):
                raise SgxCode.POLICY_REFERENCE_VALUES.error(
                    f"The reference value {name} is empty: all its bytes are zero."
                )
        for name, number, most in (
            ("isv_prod_id", self.isv_prod_id, _UINT16_MAX),
            ("isv_svn", self.isv_svn, _UINT16_MAX),
            ("attribute_flags", self.attribute_flags, _ALL_BITS),
            ("attribute_flags_mask", self.attribute_flags_mask, _ALL_BITS),
            ("xfrm", self.xfrm, _ALL_BITS),
            ("xfrm_mask", self.xfrm_mask, _ALL_BITS),
        ):
            if not 0 <= number <= most:
                raise SgxCode.POLICY_REFERENCE_VALUES.error(
                    f"The reference value {name} is out of range: expected 0 to {most:#x}, got {number:#x}."
                )
        if self.attribute_flags & AttributeFlags.DEBUG:
            raise SgxCode.POLICY_REFERENCE_VALUES.error(
                "The reference value attribute_flags includes DEBUG, which lets the host read the enclave's memory."
            )
        if self.attribute_flags_mask & _NEVER_FREE != _NEVER_FREE or self.xfrm_mask & _X87_AND_SSE != _X87_AND_SSE:
            raise SgxCode.POLICY_REFERENCE_VALUES.error(
                "The masks of the reference values are incomplete: they must include INIT, DEBUG and MODE64BIT, and "
                f"x87 and SSE in XFRM; got {self.attribute_flags_mask:#x} and {self.xfrm_mask:#x}."
            )

    @property
    def measurement(self) -> Measurement:
        """The enclave's MRENCLAVE."""
        return self.mr_enclave

    @property
    def signer(self) -> bytes:
        """The enclave's MRSIGNER."""
        return self.mr_signer

    def to_json(self) -> str:
        """Return the values as JSON. Equal values have equal JSON. Digests and 64-bit masks are hexadecimal."""
        values: dict[str, int | str] = {"isv_prod_id": self.isv_prod_id, "isv_svn": self.isv_svn}
        values |= {name: getattr(self, name).hex() for name in _DIGESTS}
        values |= {name: f"{getattr(self, name):016x}" for name in _MASKED}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    @lru_cache(maxsize=256)  # each key release reads the values of its enclave twice
    def from_json(cls, text: str) -> Self:
        """Parse values that `to_json` wrote.

        Raises:
            InputError: `policy.reference-values` if a value is empty, out of range, or would accept a debug enclave.
            ValueError, TypeError, KeyError: The text is not JSON of that form.
        """
        values = json.loads(text)
        return cls(
            mr_enclave=MrEnclave(bytes.fromhex(values["mr_enclave"])),
            mr_signer=MrSigner(bytes.fromhex(values["mr_signer"])),
            isv_prod_id=values["isv_prod_id"],
            isv_svn=values["isv_svn"],
            **{name: int(values[name], 16) for name in _MASKED},
        )

    def check(self, report: EnclaveReport) -> None:
        """Compare a verified report with these values.

        Raises:
            VerificationError: The first value that differs.
        """
        if report.attributes.debug:
            raise SgxCode.POLICY_DEBUG.error(
                "The enclave is in debug mode, so the host can read its memory.",
                hint="Set `sgx.debug = false` in the manifest, and sign the enclave again.",
            )
        if report.mr_enclave != self.mr_enclave:
            raise AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN.error(
                _expected("MRENCLAVE", self.mr_enclave.hex(), report.mr_enclave.hex())
            )
        check_identity(self, report.mr_signer, report.isv_prod_id, report.isv_svn)
        for name, found, wanted, mask in (
            ("flags", report.attributes.flags, self.attribute_flags, self.attribute_flags_mask),
            ("XFRM", report.attributes.xfrm, self.xfrm, self.xfrm_mask),
        ):
            if found & mask != wanted & mask:
                raise SgxCode.POLICY_ATTRIBUTES.error(
                    _expected(f"ATTRIBUTES, {name}", f"{wanted:#x} under mask {mask:#x}", f"{found:#x}")
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductReferenceValues:
    """The expected properties of every enclave of a product: a signer and a product id. The content is not checked.

    The holder of the signing key can write an enclave that discloses the release key. Therefore only the rule
    ``sgx.dangerous_signer`` of a policy creates these values.

    Args:
        mr_signer: MRSIGNER, 32 bytes.
        isv_prod_id: The exact product id.
        isv_svn: The minimum security version.

    Raises:
        InputError: `policy.reference-values` if a value is empty or out of range.
    """

    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int

    def __post_init__(self) -> None:
        self._with(MrEnclave(self.mr_signer))  # checks each value

    @property
    def measurement(self) -> Measurement:
        """The product, in the form of a measurement."""
        return product_of(self.mr_signer, self.isv_prod_id)

    @property
    def signer(self) -> bytes:
        """The MRSIGNER of the enclaves."""
        return self.mr_signer

    def to_json(self) -> str:
        """Return the values as JSON. Equal values have equal JSON."""
        values = {"isv_prod_id": self.isv_prod_id, "isv_svn": self.isv_svn, "mr_signer": self.mr_signer.hex()}
        return json.dumps({"product": values}, sort_keys=True, separators=(",", ":"))

    def check(self, report: EnclaveReport) -> None:
        """Compare a verified report with these values.

        Raises:
            VerificationError: The first value that differs.
        """
        self._with(report.mr_enclave).check(report)

    def _with(self, mr_enclave: MrEnclave) -> ReferenceValues:
        return ReferenceValues(
            mr_enclave=mr_enclave,
            mr_signer=self.mr_signer,
            isv_prod_id=self.isv_prod_id,
            isv_svn=self.isv_svn,
            attribute_flags_mask=_ALL_BITS & ~_PRODUCT_CHOOSES,
        )


def check_identity(
    expected: ReferenceValues | ProductReferenceValues, mr_signer: MrSigner, isv_prod_id: int, isv_svn: int
) -> None:
    """Compare the signer, the product id and the security version of an enclave with reference values.

    Raises:
        VerificationError: The first value that differs.
    """
    if mr_signer != expected.mr_signer:
        raise SgxCode.POLICY_MR_SIGNER.error(_expected("MRSIGNER", expected.mr_signer.hex(), mr_signer.hex()))
    if isv_prod_id != expected.isv_prod_id:
        raise SgxCode.POLICY_ISV_PROD_ID.error(_expected("ISVPRODID", str(expected.isv_prod_id), str(isv_prod_id)))
    if isv_svn < expected.isv_svn:
        raise SgxCode.POLICY_ISV_SVN.error(_expected("ISVSVN", f"at least {expected.isv_svn}", str(isv_svn)))


def product_of(mr_signer: MrSigner, isv_prod_id: int) -> Measurement:
    """Return the id of a product. It has the form of a measurement, so that the same index finds it."""
    content = _PRODUCT_DOMAIN + mr_signer + isv_prod_id.to_bytes(2, "little")
    return Measurement(hashlib.sha256(content).digest())


def parse_reference(text: str) -> ReferenceValues | ProductReferenceValues:
    """Parse reference values that either class wrote.

    Raises:
        InputError: `policy.reference-values` if a value is empty, out of range, or would accept a debug enclave.
        ValueError, TypeError, KeyError: The text is not JSON of that form.
    """
    values = json.loads(text)
    if "product" not in values:
        return ReferenceValues.from_json(text)
    found = values["product"]
    return ProductReferenceValues(
        mr_signer=MrSigner(bytes.fromhex(found["mr_signer"])),
        isv_prod_id=found["isv_prod_id"],
        isv_svn=found["isv_svn"],
    )


def _expected(field: str, expected: str, found: str) -> str:
    return f"The enclave does not match the reference values: expected {field} {expected}, got {found}."
