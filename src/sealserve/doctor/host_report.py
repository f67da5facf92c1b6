"""Report about a host: facts, findings, and the steps for the first run on a machine with SGX."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sealserve import __version__
from sealserve.doctor.finding import Finding
from sealserve.doctor.first_run import STEPS
from sealserve.host.cpuid import SgxSupport
from sealserve.host.facts import HostFacts


def as_data(facts: HostFacts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the report as data for JSON."""
    described = asdict(facts)
    described["processor"]["flags"] = sorted(facts.processor.flags)
    described["clock"]["skew"] = facts.clock.skew.total_seconds() if facts.clock.skew is not None else None
    return {
        "sealserve": __version__,
        "facts": described,
        "findings": [asdict(finding) for finding in findings],
        "steps": [asdict(step) for step in STEPS],
    }


def as_text(facts: HostFacts, findings: Sequence[Finding]) -> str:
    """Return the report as Markdown. It contains no host name, IP address, user name or platform ID."""
    cpuid = facts.cpuid
    rows = {
        "sealserve": __version__,
        "system": facts.system,
        "kernel": facts.kernel,
        "processor": facts.processor.model,
        "flags": " ".join(sorted(facts.processor.flags & {"sgx", "sgx_lc", "fsgsbase", "hypervisor"})),
        "CPUID": "not readable" if cpuid is None else _cpuid(cpuid),
        "EPC": "unknown" if facts.epc_bytes is None else f"{facts.epc_bytes} B",
        "Gramine": f"{facts.gramine.version or 'unknown version'} at {facts.gramine.path}"
        if facts.gramine.path
        else "none",
        "PCCS": facts.pccs.url or "none",
        "quote provider": facts.quote_provider or "none",
    }
    findings_rows = [
        (finding.verdict, finding.name, finding.found + (f" ({finding.remedy})" if finding.remedy else ""))
        for finding in findings
    ]
    steps = "".join(
        f"- [ ] {step.where}: `{step.command}`\n      expect: {step.expect}\n      confirms: {step.shows}\n"
        "      seen:\n"
        for step in STEPS
    )
    return (
        "# Host report\n\n"
        "This report does not name this machine or its users. If you run your own PCCS, the report "
        "contains its address. "
        "Read the report before you send it.\n\n"
        + _table(("what", "found"), rows.items())
        + "\n## Findings\n\n"
        + _table(("verdict", "what", "found"), findings_rows)
        + "\n## Steps to try\n\n"
        + steps
    )


def _cpuid(found: SgxSupport) -> str:
    has = {"SGX": found.sgx, "FLC": found.launch_control, "SGX1": found.sgx1, "SGX2": found.sgx2}
    return ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in has.items()) + f", EPC {found.epc_bytes} B"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines
    )
