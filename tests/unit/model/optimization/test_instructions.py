import pytest

from sealserve.model.optimization.instructions import Instructions
from sealserve.terms import Precision


@pytest.mark.parametrize(
    ("flags", "found", "precision"),
    [
        ("avx2 fma avx512f avx512bw avx512_bf16 amx_tile amx_bf16", Instructions.AMX, Precision.BFLOAT16),
        ("avx2 fma avx512f avx512bw avx512_bf16", Instructions.AVX512_BF16, Precision.BFLOAT16),
        ("avx2 fma avx512f avx512bw amx_tile amx_int8", Instructions.AVX512, Precision.FLOAT32),
        ("avx2 fma", Instructions.AVX2, Precision.FLOAT32),
        ("sse2", Instructions.OTHER, Precision.FLOAT32),
        ("", Instructions.OTHER, Precision.FLOAT32),
    ],
)
def test_the_widest_instructions_decide_the_precision(flags: str, found: Instructions, precision: Precision) -> None:
    assert Instructions.of(flags.split()) is found
    assert found.precision is precision
