"""The report of an enclave: the processor's statement about the code that the enclave runs (384 bytes).

Source: Intel SDM volume 3D, "REPORT" and "ATTRIBUTES"; Intel SGX DCAP, ``sgx_report.h`` (``sgx_report_body_t``).
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Final, NewType, Self

from sealserve.attestation.claims import REPORT_DATA_SIZE, Measurement
from sealserve.sgx.codes import SgxCode

SPEC_VERSION: Final = "Intel SDM volume 3D, 332831-087US, table 35-20 (REPORT, without its key id and MAC)"
REPORT_SIZE: Final = 384

MrEnclave = Measurement
"""SHA-256 of an enclave's initial content and layout, 32 bytes."""
MrSigner = NewType("MrSigner", bytes)
"""SHA-256 of the modulus of the key that signed an enclave's SIGSTRUCT, 32 bytes."""

# (name, offset, size); integers are little-endian; all other bytes are reserved and must be zero.
_LAYOUT: Final = (
    ("cpu_svn", 0, 16),
    ("misc_select", 16, 4),
    ("isv_ext_prod_id", 32, 16),
    ("attributes", 48, 16),
    ("mr_enclave", 64, 32),
    ("mr_signer", 128, 32),
    ("config_id", 192, 64),
    ("isv_prod_id", 256, 2),
    ("isv_svn", 258, 2),
    ("config_svn", 260, 2),
    ("isv_family_id", 304, 16),
    ("report_data", 320, REPORT_DATA_SIZE),
)
_INTEGERS: Final = frozenset({"misc_select", "isv_prod_id", "isv_svn", "config_svn"})
_RESERVED: Final = ((20, 32), (96, 128), (160, 192), (262, 304))


class AttributeFlags(IntFlag):
    """The lower half of ATTRIBUTES (SDM volume 3D, table 35-3)."""

    INIT = 1 << 0
    DEBUG = 1 << 1
    MODE64BIT = 1 << 2
    PROVISION_KEY = 1 << 4
    EINITTOKEN_KEY = 1 << 5
    CET = 1 << 6
    KSS = 1 << 7
    AEX_NOTIFY = 1 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The attributes of an enclave: flags, and the extended processor state that it uses (XFRM, as in XCR0).

    Args:
        flags: The lower 64 bits, see `AttributeFlags`. Unknown bits are retained.
        xfrm: The upper 64 bits.
    """

    flags: int
    xfrm: int

    def __post_init__(self) -> None:
        for name in ("flags", "xfrm"):
            if not 0 <= getattr(self, name) < 1 << 64:
                raise ValueError(f"{name} must be an unsigned 64-bit integer, not {getattr(self, name)}")

    @property
    def debug(self) -> bool:
        """Whether the enclave is in debug mode, in which the host can read and write its memory."""
        return bool(self.flags & AttributeFlags.DEBUG)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse the 16 bytes of ATTRIBUTES.

        Raises:
            VerificationError: `report.length` if ``raw`` does not have 16 bytes.
        """
        if len(raw) != 16:  # noqa: PLR2004  # the size of the structure
            raise SgxCode.REPORT_LENGTH.error(f"The field ATTRIBUTES is malformed: expected 16 bytes, got {len(raw)}.")
        return cls(flags=int.from_bytes(raw[:8], "little"), xfrm=int.from_bytes(raw[8:], "little"))

    def to_bytes(self) -> bytes:
        """Return the 16 bytes of ATTRIBUTES."""
        return self.flags.to_bytes(8, "little") + self.xfrm.to_bytes(8, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """A report body. Optional fields default to zeros.

    Args:
        attributes: Flags and XFRM.
        mr_enclave: MRENCLAVE, 32 bytes.
        mr_signer: MRSIGNER, 32 bytes.
        isv_prod_id: The product id from the signer, 16 bits.
        isv_svn: The security version from the signer, 16 bits.
        report_data: 64 bytes chosen by the enclave.
        cpu_svn: The security versions of the processor, 16 bytes.
        misc_select: Extended information of the state save area, 32 bits.
        isv_ext_prod_id: 16 bytes (only with KSS).
        config_id: 64 bytes (only with KSS).
        config_svn: 16 bits (only with KSS).
        isv_family_id: 16 bytes (only with KSS).
    """

    attributes: Attributes
    mr_enclave: MrEnclave
    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int
    report_data: bytes
    cpu_svn: bytes = bytes(16)
    misc_select: int = 0
    isv_ext_prod_id: bytes = bytes(16)
    config_id: bytes = bytes(64)
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)

    def __post_init__(self) -> None:
        for name, _, size in _LAYOUT:
            value = getattr(self, name)
            if name in _INTEGERS:
                if not 0 <= value < 1 << (8 * size):
                    raise ValueError(f"{name} must be an unsigned {8 * size}-bit integer, not {value}")
            elif name != "attributes" and len(value) != size:
                raise ValueError(f"{name} must have {size} bytes, not {len(value)}")

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a report body of exactly 384 bytes.

        Raises:
            VerificationError: `report.length` if ``raw`` is shorter or longer.
            VerificationError: `report.reserved` if a reserved field is not zero.
        """
        if len(raw) != REPORT_SIZE:
            raise SgxCode.REPORT_LENGTH.error(f"The report is malformed: expected {REPORT_SIZE} bytes, got {len(raw)}.")
        for start, end in _RESERVED:
            if any(raw[start:end]):
                raise SgxCode.REPORT_RESERVED.error(
                    f"The report is invalid: expected zeros in the reserved bytes {start} to {end - 1}, got "
                    f"{raw[start:end].hex()}."
                )
        values: dict[str, bytes] = {name: bytes(raw[offset : offset + size]) for name, offset, size in _LAYOUT}
        number = {name: int.from_bytes(values[name], "little") for name in _INTEGERS}
        return cls(
            attributes=Attributes.parse(values["attributes"]),
            mr_enclave=MrEnclave(values["mr_enclave"]),
            mr_signer=MrSigner(values["mr_signer"]),
            isv_prod_id=number["isv_prod_id"],
            isv_svn=number["isv_svn"],
            report_data=values["report_data"],
            cpu_svn=values["cpu_svn"],
            misc_select=number["misc_select"],
            isv_ext_prod_id=values["isv_ext_prod_id"],
            config_id=values["config_id"],
            config_svn=number["config_svn"],
            isv_family_id=values["isv_family_id"],
        )

    def to_bytes(self) -> bytes:
        """Return the 384 bytes of the report body."""
        raw = bytearray(REPORT_SIZE)
        for name, offset, size in _LAYOUT:
            value = getattr(self, name)
            if name in _INTEGERS:
                value = value.to_bytes(size, "little")
            elif name == "attributes":
                value = value.to_bytes()
            raw[offset : offset + size] = value
        return bytes(raw)
