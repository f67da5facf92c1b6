"""Checks whether a machine can run the enclaves of the release that was shipped to it."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.doctor.host_checks import epc_size, size_text
from sealserve.enclave.measurement import enclave_names, load_enclave
from sealserve.errors import SealserveError
from sealserve.host.facts import HostFacts
from sealserve.owner import releases
from sealserve.terms import CpuFeature

FLAGS: Final = {
    CpuFeature.AVX: frozenset({"avx"}),
    CpuFeature.AVX512: frozenset({"avx512f"}),
    CpuFeature.AMX: frozenset({"amx_tile"}),
}
"""The flags in ``/proc/cpuinfo``. Source: Linux, ``arch/x86/include/asm/cpufeatures.h``."""


def checks(shipped: Path, facts: HostFacts) -> Iterator[Finding]:
    """Compare the enclaves of the newest shipped release with the machine.

    Args:
        shipped: The folder of the releases on the host.
        facts: The facts about the machine.
    """
    try:
        release = releases.newest(shipped)
        manifests = [load_enclave(release, name).manifest for name in enclave_names(release)]
    except SealserveError as error:
        reason = f"its enclaves cannot be compared with this machine: {error.message}"
        yield _finding("release", Verdict.NOTE, reason, error.hint or "")
        return
    required = {feature for manifest in manifests for feature in manifest.sgx.required_cpu_features}
    sizes = [manifest.enclave_size for manifest in manifests if not manifest.sgx.edmm_enable]
    yield from filter(None, (cpu_features(facts, required), room(facts, sizes)))


def cpu_features(facts: HostFacts, required: Collection[CpuFeature]) -> Finding | None:
    """Check whether the processor has the features without which a release's enclaves do not start.

    Args:
        facts: The facts about this machine.
        required: The features. Without any, the result is None.
    """
    if not required:
        return None
    wanted = f"the newest release's enclaves require {', '.join(sorted(required))}"
    if lacking := sorted(feature for feature in required if not FLAGS[feature] <= facts.processor.flags):
        return _finding(
            "features",
            Verdict.MISSING,
            f"{wanted}, but the processor lacks {', '.join(lacking)}",
            "use another machine, or build a release without these names in `enclave.required_cpu_features`",
        )
    return _finding("features", Verdict.OK, wanted)


def room(facts: HostFacts, sizes: Sequence[int]) -> Finding | None:
    """Check whether all enclaves of a release fit into the EPC at the same time. None if a size is unknown.

    Args:
        facts: The facts about the host.
        sizes: The size of each enclave, in bytes.
    """
    epc = epc_size(facts)
    if not sizes or not epc:
        return None
    wanted = f"the newest release's enclaves ({len(sizes)}) use {size_text(sum(sizes))}"
    if sum(sizes) <= epc:
        return _finding("room", Verdict.OK, f"{wanted} of {size_text(epc)}")
    return _finding(
        "room",
        Verdict.NOTE,
        f"{wanted}, but the EPC has {size_text(epc)}: their pages are swapped, which is slow",
        "run fewer replicas here, set a smaller `enclave.size`, or use a larger machine",
    )


def _finding(name: str, verdict: Verdict, found: str, remedy: str = "") -> Finding:
    return Finding(machine=Machine.HOST, name=name, verdict=verdict, found=found, remedy=remedy)
