from dataclasses import replace
from datetime import timedelta

import pytest
from tests.harness import hosts

from sealserve.clouds.catalog import preset_of
from sealserve.doctor import host_checks
from sealserve.doctor.finding import Machine, Verdict
from sealserve.host.cpuid import sgx_support
from sealserve.host.facts import Aesmd, Clock, Confinement, Device, Gramine, HostFacts, Pccs, Processor
from sealserve.terms import Cloud

OK, NOTE, MISSING = Verdict.OK, Verdict.NOTE, Verdict.MISSING

READY = HostFacts(
    system="Ubuntu 22.04.5 LTS",
    kernel="6.8.0-1041-azure",
    processor=Processor(model="Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", flags=frozenset({"sgx", "sgx_lc"})),
    cpuid=sgx_support(hosts.reader(hosts.AZURE_DC2DS_V3)),
    fsgsbase=True,
    enclave_device=Device(path="/dev/sgx_enclave", exists=True, character_device=True, usable=True, mode=0o666),
    provision_device=Device(path="/dev/sgx_provision", exists=True, character_device=True, mode=0o660),
    dev_executable=True,
    epc_bytes=8 << 30,
    aesmd=Aesmd(socket="/var/run/aesmd/aesm.socket", exists=True, answers=True),
    quote_provider="/usr/lib/x86_64-linux-gnu/libdcap_quoteprov.so.1",
    pccs=Pccs(url="https://global.acccache.azure.net/sgx/certification/v4/", configured=True, status=200),
    gramine=Gramine(path="/usr/bin/gramine-sgx", version="1.9"),
    clock=Clock(synchronized=True, skew=timedelta(seconds=-1)),
)


def flags(*names: str) -> Processor:
    return Processor(model="Intel(R) Xeon(R)", flags=frozenset(names))


def test_a_machine_that_is_ready() -> None:
    found = list(host_checks.checks(READY))
    assert [(finding.name, finding.found) for finding in found if finding.verdict is not OK] == []
    assert {finding.machine for finding in found} == {Machine.HOST}
    assert not any(finding.remedy for finding in found)
    words = " | ".join(finding.found for finding in found)
    for said in ("8370C", "SGX2", "FLC", "8.0 GiB", "Linux 6.8.0-1041-azure", "/dev/sgx_enclave (mode 0666)", "1.9 at"):
        assert said in words


def test_a_machine_without_sgx_gets_a_remedy_for_each_requirement() -> None:
    found = {finding.name: finding for finding in host_checks.checks(HostFacts())}
    assert all(finding.remedy for finding in found.values() if finding.verdict is not OK)
    assert [name for name, finding in found.items() if finding.verdict is OK] == ["/dev", "confinement"]
    assert found["EPC"].verdict is found["clock"].verdict is NOTE
    assert len(found) == len(host_checks.CHECKS)


def test_disabled_sgx_is_distinguished_from_missing_sgx() -> None:
    disabled = replace(
        READY, processor=flags(), cpuid=sgx_support(hosts.reader(hosts.DISABLED_IN_BIOS)), epc_bytes=None
    )
    assert host_checks.processor(disabled).found == "Intel(R) Xeon(R): SGX is supported but not enabled"
    assert "BIOS" in host_checks.processor(disabled).remedy
    assert host_checks.enclave_memory(disabled).verdict is MISSING
    none = replace(READY, processor=flags(), cpuid=sgx_support(hosts.reader(hosts.NO_SGX)))
    assert host_checks.processor(none).found == "Intel(R) Xeon(R): no SGX"
    unread = replace(READY, processor=flags(), cpuid=None)
    assert "`modprobe cpuid`" in host_checks.processor(unread).found
    assert host_checks.processor(unread).verdict is MISSING


def test_launch_control() -> None:
    without = replace(READY, processor=flags("sgx"), cpuid=sgx_support(hosts.reader(hosts.NO_LAUNCH_CONTROL)))
    assert host_checks.launch_control(without).verdict is MISSING
    assert host_checks.launch_control(replace(without, cpuid=READY.cpuid)).verdict is OK
    assert host_checks.launch_control(replace(READY, cpuid=None)).verdict is OK


@pytest.mark.parametrize(
    ("release", "verdict", "words"),
    [
        ("4.19.91-24.1.al7.x86_64", MISSING, "too old: Gramine requires 5.11"),
        ("5.4.119-19-0009.1", MISSING, "too old"),
        ("5.10.134-16.al8.x86_64", MISSING, "too old"),
        ("5.11.0", OK, "EDMM requires 6.0"),
        ("5.15.0-1102-azure", OK, "EDMM requires 6.0"),
        ("6.6.98-40.2.tl4.x86_64", OK, "Linux 6.6.98"),
        ("", MISSING, "unknown"),
        ("not a version", MISSING, "not a version"),
    ],
)
def test_kernels(release: str, verdict: Verdict, words: str) -> None:
    found = host_checks.kernel(replace(READY, kernel=release, enclave_device=Device(path="/dev/sgx_enclave")))
    assert (found.verdict, bool(found.remedy)) == (verdict, verdict is not OK)
    assert words in found.found


def test_a_backported_driver_is_a_note() -> None:
    found = host_checks.kernel(replace(READY, kernel="5.10.134-16.al8.x86_64"))
    assert found.verdict is NOTE
    assert "backported" in found.found
    assert host_checks.kernel(replace(READY, kernel="5.10.134", fsgsbase=False)).verdict is MISSING


def test_fsgsbase() -> None:
    assert host_checks.fsgsbase(replace(READY, fsgsbase=False)).found == "disabled"
    assert host_checks.fsgsbase(replace(READY, fsgsbase=None)).verdict is MISSING


def test_device_nodes() -> None:
    def driver(**device: object) -> tuple[Verdict, str, str]:
        node = replace(READY.enclave_device, **device)  # type: ignore[arg-type]
        found = host_checks.driver(replace(READY, enclave_device=node, old_devices=("/dev/isgx",)))
        return found.verdict, found.found, found.remedy

    assert driver(exists=False)[:2] == (
        MISSING,
        "/dev/sgx_enclave does not exist; /dev/isgx belongs to an older driver that Gramine 1.9 does not support",
    )
    assert driver(character_device=False)[2].startswith("remove it with `rm /dev/sgx_enclave`")
    verdict, found, remedy = driver(usable=False, mode=0o660)
    assert (verdict, found) == (MISSING, "/dev/sgx_enclave exists (mode 0660), but this user may not open it")
    assert "usermod" in remedy


def test_no_enclave_is_mapped_from_a_noexec_mount() -> None:
    found = host_checks.executable_devices(replace(READY, dev_executable=False))
    assert found.verdict is MISSING
    assert "remount,exec" in found.remedy
    assert host_checks.executable_devices(replace(READY, dev_executable=None)).verdict is OK


def test_the_provisioning_device_is_for_aesmd() -> None:
    opened = replace(READY, provision_device=replace(READY.provision_device, mode=0o666))
    assert host_checks.provision_device(opened).verdict is NOTE
    gone = replace(READY, provision_device=Device(path="/dev/sgx_provision"))
    assert host_checks.provision_device(gone).verdict is MISSING


@pytest.mark.parametrize(
    ("machine", "verdict", "found"),
    [
        (hosts.ALIBABA_VSGX, OK, "23.2 GiB"),
        (hosts.TWO_SOCKETS, OK, "4.0 GiB"),
        (hosts.CLIENT_XEON, NOTE, "94 MiB"),
        (hosts.DISABLED_IN_BIOS, MISSING, "no protected memory"),
    ],
)
def test_epc_that_only_cpuid_reports(machine: hosts.Leaves, verdict: Verdict, found: str) -> None:
    facts = replace(READY, epc_bytes=None, cpuid=sgx_support(hosts.reader(machine)))
    judged = host_checks.enclave_memory(facts)
    assert judged.verdict is verdict
    assert judged.found.startswith(found)


def test_aesmd() -> None:
    socket = "/var/run/aesmd/aesm.socket"
    dead = replace(READY, aesmd=Aesmd(socket=socket, exists=True, reason="Connection refused"))
    assert host_checks.aesmd(dead).found == f"{socket} does not answer: Connection refused"
    assert "apt-get install sgx-aesm-service" in host_checks.aesmd(HostFacts()).remedy


def test_quotes_need_the_platforms_certificates() -> None:
    found = host_checks.quote_provider(replace(READY, quote_provider=""))
    assert found.verdict is MISSING
    assert "libsgx-dcap-default-qpl" in found.remedy


@pytest.mark.parametrize(
    ("pccs", "verdict", "words"),
    [
        (Pccs(), MISSING, "no PCCS is configured: /etc/sgx_default_qcnl.conf does not exist"),
        (Pccs(configured=True, reason="it sets no PCCS"), MISSING, "it sets no PCCS"),
        (Pccs(url="https://p/", configured=True, reason="timed out"), MISSING, "https://p/ does not answer: timed out"),
        (Pccs(url="https://p/", configured=True, status=404), MISSING, "HTTP status 404"),
        (Pccs(url="https://p/", configured=True), NOTE, "not contacted"),
    ],
)
def test_pccs(pccs: Pccs, verdict: Verdict, words: str) -> None:
    found = host_checks.pccs(replace(READY, pccs=pccs))
    assert found.verdict is verdict
    assert words in found.found


@pytest.mark.parametrize(
    ("name", "url", "verdict"),
    [
        (Cloud.AZURE_DCSV3, "https://global.acccache.azure.net/sgx/certification/v3/", OK),
        (Cloud.ALIBABA_G7T, "https://sgx-dcap-server.cn-beijing.aliyuncs.com/sgx/certification/v4", OK),
        (Cloud.ALIBABA_G7T, "https://localhost:8081/sgx/certification/v4/", NOTE),
        (Cloud.TENCENT_M6CE, "https://sgx-dcap-server-tc.sh.tencent.cn/sgx/certification/v4/", OK),
        (Cloud.TENCENT_M6CE, "", NOTE),
    ],
)
def test_each_cloud_has_a_pccs_of_its_own(name: Cloud, url: str, verdict: Verdict) -> None:
    found = host_checks.cloud(replace(READY, pccs=Pccs(url=url)), preset_of(name))
    assert found.verdict is verdict
    if verdict is NOTE:
        assert (
            found.remedy == f"run `sealserve cloud qcnl {name} --region REGION | sudo tee /etc/sgx_default_qcnl.conf`"
        )


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("1.8", MISSING), ("1.9", OK), ("1.9post~UNRELEASED", OK), ("1.10", NOTE), ("2.0", NOTE), ("", NOTE)],
)
def test_gramine(version: str, verdict: Verdict) -> None:
    found = host_checks.gramine(replace(READY, gramine=Gramine(path="/usr/bin/gramine-sgx", version=version)))
    assert found.verdict is verdict


@pytest.mark.parametrize(
    ("confinement", "verdict", "words"),
    [
        (Confinement(seccomp=0), OK, "not in a container; no seccomp"),
        (Confinement(container=True, seccomp=2), NOTE, "in a container; a seccomp filter: gramine-sgx works"),
        (Confinement(apparmor="docker-default (enforce)"), NOTE, "AppArmor docker-default (enforce)"),
        (Confinement(seccomp=2, apparmor="p"), NOTE, "a seccomp filter, AppArmor p"),
    ],
)
def test_confinement(confinement: Confinement, verdict: Verdict, words: str) -> None:
    found = host_checks.confinement(replace(READY, confinement=confinement))
    assert found.verdict is verdict
    assert words in found.found


@pytest.mark.parametrize(
    ("clock", "verdict", "words"),
    [
        (Clock(skew=timedelta(seconds=31)), NOTE, "31 s ahead of the PCCS"),
        (Clock(skew=timedelta(minutes=-6)), MISSING, "360 s behind the PCCS"),
        (Clock(synchronized=True), OK, "synchronized by a time service"),
        (Clock(synchronized=False), NOTE, "not synchronized by a time service yet"),
        (Clock(), NOTE, "no time source to compare with"),
    ],
)
def test_clock(clock: Clock, verdict: Verdict, words: str) -> None:
    found = host_checks.clock(replace(READY, clock=clock))
    assert found.verdict is verdict
    assert words in found.found
