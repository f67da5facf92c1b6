from dataclasses import replace

from sealserve.doctor.finding import Verdict
from sealserve.doctor.shipped_release import cpu_features, room
from sealserve.host.facts import HostFacts, Processor
from sealserve.terms import CpuFeature

ROOMY = HostFacts(epc_bytes=8 << 30)


def test_enclaves_that_do_not_fit_at_once_are_a_note() -> None:
    fits = room(ROOMY, [4 << 30, 4 << 30])
    assert fits is not None
    assert (fits.verdict, fits.found) == (Verdict.OK, "the newest release's enclaves (2) use 8.0 GiB of 8.0 GiB")
    swapped = room(ROOMY, [8 << 30, 512 << 20])
    assert swapped is not None
    assert swapped.verdict is Verdict.NOTE
    assert "(2) use 8.5 GiB, but the EPC has 8.0 GiB" in swapped.found
    assert room(ROOMY, []) is None
    assert room(replace(ROOMY, epc_bytes=0), [1]) is None


def test_a_processor_without_a_required_feature_is_a_fault() -> None:
    required = [CpuFeature.AMX, CpuFeature.AVX512]
    assert cpu_features(ROOMY, []) is None
    lacking = cpu_features(replace(ROOMY, processor=Processor(model="", flags=frozenset({"avx512f"}))), required)
    assert lacking is not None
    assert (lacking.verdict, lacking.found) == (
        Verdict.MISSING,
        "the newest release's enclaves require amx, avx512, but the processor lacks amx",
    )
    found = cpu_features(
        replace(ROOMY, processor=Processor(model="", flags=frozenset({"avx512f", "amx_tile"}))), required
    )
    assert found is not None
    assert found.verdict is Verdict.OK
