"""SIGSTRUCT: the enclave's certificate, with the identity and attributes that its signer specifies (1808 bytes).

Source: Intel SDM volume 3D, "Enclave Signature Structure (SIGSTRUCT)", and EINIT for the checks; Gramine 1.9,
``pal/src/host/linux-sgx/sgx_arch.h`` (``sgx_sigstruct_t``, the masks) and ``python/graminelibos/sigstruct.py``.
"""

import functools
import hashlib
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from types import MappingProxyType
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.report import AttributeFlags, Attributes, MrEnclave, MrSigner
from sealserve.sgx.signing_key import KEY_BITS, KEY_EXPONENT, check_signing_key
from sealserve.terms import CpuFeature

SPEC_VERSION: Final = "Intel SDM volume 3D, SIGSTRUCT; Gramine 1.9, sgx_arch.h"
SIGSTRUCT_SIZE: Final = 1808

# (name, offset, size); integers are little-endian; all other bytes are reserved and must be zero.
_LAYOUT: Final = (
    ("header", 0, 16),
    ("vendor", 16, 4),
    ("signed_on", 20, 4),
    ("header2", 24, 16),
    ("sw_defined", 40, 4),
    ("modulus", 128, 384),
    ("exponent", 512, 4),
    ("signature", 516, 384),
    ("misc_select", 900, 4),
    ("misc_mask", 904, 4),
    ("cet_attributes", 908, 1),
    ("cet_attributes_mask", 909, 1),
    ("isv_family_id", 912, 16),
    ("attributes", 928, 16),
    ("attribute_mask", 944, 16),
    ("mr_enclave", 960, 32),
    ("isv_ext_prod_id", 1008, 16),
    ("isv_prod_id", 1024, 2),
    ("isv_svn", 1026, 2),
    ("q1", 1040, 384),
    ("q2", 1424, 384),
)
_SPANS: Final[Mapping[str, slice]] = MappingProxyType({name: slice(at, at + size) for name, at, size in _LAYOUT})
_RESERVED: Final = (slice(44, 128), slice(910, 912), slice(992, 1008), slice(1028, 1040))
_SIGNED: Final = (slice(0, 128), slice(900, 1028))
_FIXED: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "header": bytes.fromhex("06000000e10000000000010000000000"),
        "header2": bytes.fromhex("01010000600000006000000001000000"),
    }
)
_VENDORS: Final = frozenset({0, 0x8086})
_BYTES: Final = frozenset({"isv_family_id", "isv_ext_prod_id"})

# EINIT compares all flags, and all bits of XFRM except AVX, AVX-512 and AMX (Gramine 1.9, SGX_*_MASK_CONST).
ATTRIBUTE_MASK: Final = Attributes(flags=0xFFFF_FFFF_FFFF_FFFF, xfrm=0xFFFF_FFFF_FFF9_FF1B)
PRODUCTION_ATTRIBUTES: Final = Attributes(flags=AttributeFlags.MODE64BIT, xfrm=0x3)
_XFRM: Final = {CpuFeature.AVX: 0x4, CpuFeature.AVX512: 0xE0, CpuFeature.AMX: 0x6_0000}
"""Bits of XFRM by feature (Intel SDM volume 1, "XCR0"; Gramine 1.9, ``SGX_XFRM_*``)."""
MISC_MASK: Final = 0xFFFF_FFFF


def xfrm_of(features: Iterable[CpuFeature]) -> int:
    """Return the bits of XFRM for features of the processor."""
    return functools.reduce(operator.or_, (_XFRM[feature] for feature in features), 0)


def features_of(xfrm: int) -> tuple[CpuFeature, ...]:
    """Return the features of the processor whose bits are all in ``xfrm``."""
    return tuple(feature for feature, bits in _XFRM.items() if xfrm & bits == bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigstruct:
    """The fields of a SIGSTRUCT. `parse` and `sign` create one, `verify` checks its signature.

    Args:
        mr_enclave: The signed measurement, 32 bytes.
        attributes: The attributes with which the enclave must be started, where the mask has a bit.
        attribute_mask: The bits of ATTRIBUTES that EINIT compares.
        isv_prod_id: The product id, 16 bits.
        isv_svn: The security version, 16 bits.
        signed_on: The date of signing, chosen by the signer.
        modulus: The signer's RSA modulus.
        signature: The RSA signature, as a number.
        q1: floor(signature^2 / modulus).
        q2: floor((signature^3 - q1 * signature * modulus) / modulus).
        vendor: 0, or 0x8086 for Intel's own enclaves.
        sw_defined: Reserved for the signer's use.
        misc_select: Extended information of the state save area, 32 bits.
        misc_mask: The bits of MISCSELECT that EINIT compares.
        cet_attributes: Control-flow enforcement. Zero in Gramine's enclaves.
        cet_attributes_mask: The bits of ``cet_attributes`` that EINIT compares.
        isv_family_id: 16 bytes (only with KSS).
        isv_ext_prod_id: 16 bytes (only with KSS).
        exponent: The RSA exponent, always 3.
    """

    mr_enclave: MrEnclave
    attributes: Attributes
    attribute_mask: Attributes
    isv_prod_id: int
    isv_svn: int
    signed_on: date
    modulus: int = 0
    signature: int = 0
    q1: int = 0
    q2: int = 0
    vendor: int = 0
    sw_defined: int = 0
    misc_select: int = 0
    misc_mask: int = MISC_MASK
    cet_attributes: int = 0
    cet_attributes_mask: int = 0
    isv_family_id: bytes = bytes(16)
    isv_ext_prod_id: bytes = bytes(16)
    exponent: int = KEY_EXPONENT

    @property
    def mr_signer(self) -> MrSigner:
        """The signer's MRSIGNER: SHA-256 of the modulus, 384 bytes little-endian."""
        return _mr_signer(self.modulus)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a SIGSTRUCT of exactly 1808 bytes. The signature is not verified; use `verify`.

        Raises:
            VerificationError: `sigstruct.length` if ``raw`` is shorter or longer.
            VerificationError: `sigstruct.header` if HEADER, HEADER2 or VENDOR has an unknown value.
            VerificationError: `sigstruct.reserved` if a reserved field is not zero.
            VerificationError: `sigstruct.date` if DATE is not a calendar date.
            VerificationError: `sigstruct.key` if the exponent is not 3 or the modulus does not have 3072 bits.
        """
        if len(raw) != SIGSTRUCT_SIZE:
            raise SgxCode.SIGSTRUCT_LENGTH.error(
                f"The SIGSTRUCT is malformed: expected {SIGSTRUCT_SIZE} bytes, got {len(raw)}."
            )
        value = {name: bytes(raw[span]) for name, span in _SPANS.items()}
        number = {name: int.from_bytes(field, "little") for name, field in value.items()}
        for name, expected in _FIXED.items():
            if value[name] != expected:
                raise SgxCode.SIGSTRUCT_HEADER.error(
                    f"The SIGSTRUCT is invalid: expected {name} {expected.hex()}, got {value[name].hex()}."
                )
        if number["vendor"] not in _VENDORS:
            raise SgxCode.SIGSTRUCT_HEADER.error(
                f"The SIGSTRUCT is invalid: expected vendor 0 or 0x8086, got {number['vendor']:#x}."
            )
        for span in _RESERVED:
            if any(raw[span]):
                raise SgxCode.SIGSTRUCT_RESERVED.error(
                    f"The SIGSTRUCT is invalid: expected zeros in the reserved bytes {span.start} to {span.stop - 1}, "
                    f"got {raw[span].hex()}."
                )
        if number["exponent"] != KEY_EXPONENT or number["modulus"].bit_length() != KEY_BITS:
            raise SgxCode.SIGSTRUCT_KEY.error(
                f"The SIGSTRUCT has an invalid key: expected RSA with {KEY_BITS} bits and exponent {KEY_EXPONENT}, "
                f"got {number['modulus'].bit_length()} bits and exponent {number['exponent']}."
            )
        plain = {name for name, _, _ in _LAYOUT} - {*_FIXED, *_BYTES, "signed_on", "attributes", "attribute_mask"}
        fields = {name: number[name] for name in plain - {"mr_enclave"}}
        return cls(
            mr_enclave=MrEnclave(value["mr_enclave"]),
            attributes=Attributes.parse(value["attributes"]),
            attribute_mask=Attributes.parse(value["attribute_mask"]),
            signed_on=_parse_date(number["signed_on"]),
            isv_family_id=value["isv_family_id"],
            isv_ext_prod_id=value["isv_ext_prod_id"],
            **fields,
        )

    def to_bytes(self) -> bytes:
        """Return the SIGSTRUCT as 1808 bytes."""
        raw = bytearray(SIGSTRUCT_SIZE)
        for name, offset, size in _LAYOUT:
            if name in _FIXED:
                field = _FIXED[name]
            elif name == "signed_on":  # yyyymmdd, one hexadecimal digit per decimal digit
                field = int(self.signed_on.strftime("%Y%m%d"), 16).to_bytes(size, "little")
            else:
                value = getattr(self, name)
                if isinstance(value, Attributes):
                    value = value.to_bytes()
                field = value.to_bytes(size, "little") if isinstance(value, int) else value
            raw[offset : offset + size] = field
        return bytes(raw)

    def verify(self) -> MrSigner:
        """Verify the signature like EINIT, and return the signer's measurement (MRSIGNER).

        Steps: (1) RSA PKCS#1 v1.5 with SHA-256 over the bytes 0 to 127 and 900 to 1027; (2) Q1 and Q2.

        Raises:
            VerificationError: `sigstruct.key` in step 1: the modulus is not a valid RSA modulus.
            VerificationError: `sigstruct.signature` in step 1: this key did not sign these bytes.
            VerificationError: `sigstruct.quotient` in step 2: Q1 or Q2 is wrong.
        """
        try:  # (1)
            key = rsa.RSAPublicNumbers(self.exponent, self.modulus).public_key()
            key.verify(self.signature.to_bytes(384, "big"), self._signed_bytes(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as error:
            raise SgxCode.SIGSTRUCT_SIGNATURE.error(
                f"The SIGSTRUCT's signature is invalid: MRENCLAVE {self.mr_enclave.hex()} is not signed by the key "
                f"with MRSIGNER {self.mr_signer.hex()}.",
                hint="Build and sign the enclave again: the file was changed after it was signed.",
            ) from error
        except ValueError as error:
            raise SgxCode.SIGSTRUCT_KEY.error(f"The SIGSTRUCT has an invalid RSA modulus: {error}.") from error
        for name, expected in zip(("q1", "q2"), _quotients(self.signature, self.modulus), strict=True):  # (2)
            if getattr(self, name) != expected:
                raise SgxCode.SIGSTRUCT_QUOTIENT.error(
                    f"The SIGSTRUCT is invalid: {name} does not match its signature and modulus."
                )
        return self.mr_signer

    @classmethod
    def sign(
        cls,
        *,
        mr_enclave: MrEnclave,
        key: rsa.RSAPrivateKey,
        signed_on: date,
        isv_prod_id: int,
        isv_svn: int,
        attributes: Attributes = PRODUCTION_ATTRIBUTES,
        attribute_mask: Attributes = ATTRIBUTE_MASK,
    ) -> Self:
        """Return a signed SIGSTRUCT for an enclave.

        Args:
            mr_enclave: The enclave's measurement.
            key: The signing key: RSA, 3072 bits, exponent 3.
            signed_on: The signing date in the SIGSTRUCT.
            isv_prod_id: The product id.
            isv_svn: The security version.
            attributes: The attributes with which the enclave is started.
            attribute_mask: The bits of ``attributes`` that must match.

        Raises:
            InputError: `signing-key.invalid` if ``key`` has another size or exponent.
        """
        check_signing_key(key)
        unsigned = cls(
            mr_enclave=mr_enclave,
            attributes=attributes,
            attribute_mask=attribute_mask,
            isv_prod_id=isv_prod_id,
            isv_svn=isv_svn,
            signed_on=signed_on,
            modulus=key.public_key().public_numbers().n,
        )
        raw = key.sign(unsigned._signed_bytes(), padding.PKCS1v15(), hashes.SHA256())
        signature = int.from_bytes(raw, "big")
        q1, q2 = _quotients(signature, unsigned.modulus)
        return replace(unsigned, signature=signature, q1=q1, q2=q2)

    def missing_features(self, platform_xfrm: int) -> tuple[CpuFeature, ...]:
        """Return the features that the enclave requires and the platform lacks. EINIT then fails.

        Args:
            platform_xfrm: The extended processor state that the platform supports, as in XCR0.
        """
        return features_of(self.attributes.xfrm & self.attribute_mask.xfrm & ~platform_xfrm)

    def launch_attributes(self, platform_xfrm: int) -> Attributes:
        """Return the attributes in a report of this enclave after EINIT has succeeded.

        EINIT sets INIT. The platform determines the bits of XFRM outside the mask (AVX and wider).

        Args:
            platform_xfrm: The extended processor state that the platform supports, as in XCR0.
        """
        open_bits = ~self.attribute_mask.xfrm & 0xFFFF_FFFF_FFFF_FFFF
        return Attributes(
            flags=self.attributes.flags | AttributeFlags.INIT,
            xfrm=(self.attributes.xfrm & self.attribute_mask.xfrm) | (platform_xfrm & open_bits),
        )

    def _signed_bytes(self) -> bytes:
        raw = self.to_bytes()
        return b"".join(raw[span] for span in _SIGNED)


def mr_signer(key: rsa.RSAPublicKey) -> MrSigner:
    """Return MRSIGNER for a signing key: SHA-256 of its 384-byte little-endian modulus."""
    return _mr_signer(key.public_numbers().n)


def _mr_signer(modulus: int) -> MrSigner:
    return MrSigner(hashlib.sha256(modulus.to_bytes(384, "little")).digest())


def _quotients(signature: int, modulus: int) -> tuple[int, int]:
    q1, rest = divmod(signature * signature, modulus)
    return q1, rest * signature // modulus


def _parse_date(number: int) -> date:
    text = f"{number:08x}"
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError as error:
        raise SgxCode.SIGSTRUCT_DATE.error(
            f"The SIGSTRUCT has an invalid signing date: expected yyyymmdd, got {text}."
        ) from error
