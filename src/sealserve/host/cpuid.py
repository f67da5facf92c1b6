"""SGX support of a processor, from CPUID leaves 07H and 12H.

Source: Intel SDM volume 3D, chapter "Introduction to Intel SGX", "Discovering Support for Intel SGX" and "Intel SGX
Resource Enumeration Leaves"; interpreted as in Gramine 1.9 (tools/sgx/is-sgx-available/is_sgx_available.cpp).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

VENDOR_LEAF: Final = 0x00
FEATURE_LEAF: Final = 0x07
SGX_LEAF: Final = 0x12
REGISTERS_SIZE: Final = 16

_INTEL: Final = b"GenuineIntel"
_FIRST_SECTION: Final = 2
_MAX_SECTIONS: Final = 64  # a processor has one or two; the limit ends an endless list
_EPC_SECTION: Final = 1
_SAFE_EXPONENT: Final = 63


class Registers(NamedTuple):
    """EAX, EBX, ECX and EDX after one CPUID instruction."""

    eax: int
    ebx: int
    ecx: int
    edx: int

    @classmethod
    def unpack(cls, data: bytes) -> "Registers":
        """Return the registers from 16 bytes of ``/dev/cpu/N/cpuid`` (Linux, arch/x86/kernel/cpuid.c)."""
        return cls(*struct.unpack("<4I", data))


ReadLeaf = Callable[[int, int], Registers]
"""Called with a leaf and a sub-leaf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxSupport:
    """The SGX support of a processor.

    Attributes:
        intel: Whether it is an Intel processor.
        sgx: Whether the processor supports SGX, enabled or not.
        launch_control: Whether it supports flexible launch control (FLC), which Linux and DCAP require.
        sgx1: Whether enclaves can be created. A processor with `sgx` but without this has SGX disabled in its BIOS.
        sgx2: Whether it supports dynamic memory (EDMM).
        max_enclave_bytes: The largest enclave, in bytes.
        epc_bytes: The enclave page cache (EPC) that the BIOS reserved, in bytes, over all sections.
    """

    intel: bool
    sgx: bool = False
    launch_control: bool = False
    sgx1: bool = False
    sgx2: bool = False
    max_enclave_bytes: int = 0
    epc_bytes: int = 0


def sgx_support(read: ReadLeaf) -> SgxSupport:
    """Return the SGX support of the processor that ``read`` queries."""
    highest, ebx, ecx, edx = read(VENDOR_LEAF, 0)
    intel = struct.pack("<3I", ebx, edx, ecx) == _INTEL
    if not intel or highest < FEATURE_LEAF:
        return SgxSupport(intel=intel)
    features = read(FEATURE_LEAF, 0)
    if not _bit(features.ebx, 2) or highest < SGX_LEAF:
        return SgxSupport(intel=True)
    capabilities = read(SGX_LEAF, 0)
    sgx1 = _bit(capabilities.eax, 0)
    return SgxSupport(
        intel=True,
        sgx=True,
        launch_control=_bit(features.ecx, 30),
        sgx1=sgx1,
        sgx2=_bit(capabilities.eax, 1),
        max_enclave_bytes=1 << min(capabilities.edx >> 8 & 0xFF, _SAFE_EXPONENT) if sgx1 else 0,
        epc_bytes=_epc_bytes(read),
    )


def _epc_bytes(read: ReadLeaf) -> int:
    total = 0
    for subleaf in range(_FIRST_SECTION, _FIRST_SECTION + _MAX_SECTIONS):
        section = read(SGX_LEAF, subleaf)
        kind = section.eax & 0xF
        if kind == 0:
            break
        if kind == _EPC_SECTION:
            total += (section.ecx & 0xFFFFF000) + ((section.edx & 0xFFFFF) << 32)
    return total


def _bit(register: int, number: int) -> bool:
    return bool(register >> number & 1)
