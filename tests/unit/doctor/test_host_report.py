import json
import re
import socket
from datetime import timedelta
from pathlib import Path

from tests.harness import hosts

from sealserve.doctor import host_checks, host_report
from sealserve.doctor.first_run import STEPS
from sealserve.host.cpuid import sgx_support
from sealserve.host.facts import Clock, Confinement, Gramine, HostFacts, Processor

FACTS = HostFacts(
    system="Ubuntu 22.04.5 LTS",
    kernel="6.8.0-1041-azure",
    processor=Processor(model="Xeon | 8370C", flags=frozenset({"sgx_lc", "sgx", "avx2"})),
    cpuid=sgx_support(hosts.reader(hosts.AZURE_DC2DS_V3)),
    gramine=Gramine(path="/usr/bin/gramine-sgx", version="1.9"),
    confinement=Confinement(container=True),
    clock=Clock(skew=timedelta(seconds=1.5)),
)
FINDINGS = list(host_checks.checks(FACTS))


def test_people_read_facts_findings_and_what_to_try() -> None:
    text = host_report.as_text(FACTS, FINDINGS)
    assert "| processor | Xeon \\| 8370C |\n" in text
    assert "| flags | sgx sgx_lc |\n" in text
    assert "EPC 8589934592 B" in text
    assert "| Gramine | 1.9 at /usr/bin/gramine-sgx |\n" in text
    assert "| missing | driver | /dev/sgx_enclave does not exist (" in text
    assert text.count("- [ ] ") == len(STEPS)
    assert text.count("seen:") == len(STEPS)
    empty = host_report.as_text(HostFacts(), [])
    assert "| CPUID | not readable |" in empty
    assert "| EPC | unknown |" in empty


def test_programs_read_the_same() -> None:
    data = json.loads(json.dumps(host_report.as_data(FACTS, FINDINGS)))
    assert data["facts"]["processor"]["flags"] == ["avx2", "sgx", "sgx_lc"]
    assert data["facts"]["clock"]["skew"] == 1.5
    assert data["facts"]["cpuid"]["epc_bytes"] == 8 << 30
    assert [row["name"] for row in data["findings"]] == [finding.name for finding in FINDINGS]
    assert len(data["steps"]) == len(STEPS)


def test_a_report_does_not_name_its_machine() -> None:
    text = host_report.as_text(FACTS, FINDINGS)
    assert socket.gethostname() not in text
    assert not re.search(r"\b(?:\d{1,3}\.){3}\d{1,3}\b", text)


def test_the_reference_has_the_same_list_of_what_to_try() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "reference" / "compatibility.md"
    text = page.read_text(encoding="utf-8")
    missing = [step.command for step in STEPS if f"`{step.command}`" not in text or step.shows not in text]
    assert missing == []
