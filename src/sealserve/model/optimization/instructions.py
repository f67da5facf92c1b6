"""The instructions of processors, and the precision in which a processor computes faster.

Source of the names: Linux, ``arch/x86/include/asm/cpufeatures.h`` (flags in ``/proc/cpuinfo``).
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Final

from sealserve.terms import Precision


class Instructions(StrEnum):
    """The widest instructions of a processor that TensorFlow uses for convolutions and products of matrices."""

    AMX = "amx"
    """Tiles of bfloat16: Intel Xeon from the 4th generation (Sapphire Rapids)."""
    AVX512_BF16 = "avx512_bf16"
    """Dot products of bfloat16: AMD EPYC from the 4th generation, Intel Cooper Lake."""
    AVX512 = "avx512"
    AVX2 = "avx2"
    OTHER = "other"

    @classmethod
    def of(cls, flags: Collection[str]) -> "Instructions":
        """Return the widest instructions of a processor.

        Args:
            flags: The processor's flags in ``/proc/cpuinfo``.
        """
        return next((found for found in cls if _FLAGS.get(found, frozenset(("",))) <= set(flags)), cls.OTHER)

    @property
    def computes_bfloat16(self) -> bool:
        """Whether the processor multiplies numbers in bfloat16. Other processors convert each number first."""
        return self in (Instructions.AMX, Instructions.AVX512_BF16)

    @property
    def precision(self) -> Precision:
        """The faster precision on this processor."""
        return Precision.BFLOAT16 if self.computes_bfloat16 else Precision.FLOAT32


_FLAGS: Final = {
    Instructions.AMX: frozenset({"amx_tile", "amx_bf16", "avx512f"}),
    Instructions.AVX512_BF16: frozenset({"avx512_bf16", "avx512f"}),
    Instructions.AVX512: frozenset({"avx512f", "avx512bw"}),
    Instructions.AVX2: frozenset({"avx2", "fma"}),
}
