"""Checks of a host for genuine enclaves: one pure function for each requirement, over facts that a probe collected.

Sources: Gramine 1.9, Documentation/sgx-setup.rst and devel/building.rst (requirements), tools/sgx/is-sgx-available
(how Gramine checks them); Linux, Documentation/arch/x86/sgx.rst; Intel SGX Software Installation Guide for Linux.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from sealserve.clock import CLOCK_SKEW
from sealserve.clouds.facts import Preset
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.enclave.gramine_tools import INSTALLATION
from sealserve.host import qcnl
from sealserve.host.facts import HostFacts

Version = tuple[int, int]

MINIMUM_KERNEL: Final[Version] = (5, 11)
"""The first kernel with the SGX driver and FSGSBASE. Source: Gramine 1.9, Documentation/sgx-setup.rst."""
EDMM_KERNEL: Final[Version] = (6, 0)
"""Source: Gramine 1.9, Documentation/manifest-syntax.rst, "EDMM"."""
MINIMUM_GRAMINE: Final[Version] = (1, 9)
"""The manifests use the syntax of this version."""
SMALL_EPC: Final = 1 << 30
"""Bytes. Client processors have 93 MiB (128 MiB reserved). A larger enclave's pages are swapped, which is slow."""
SKEW: Final = timedelta(seconds=30)

_BIOS: Final = (
    'enable SGX in the BIOS ("Enabled", not "Software Controlled"); '
    "in a cloud, choose an instance type with SGX (`sealserve cloud list`)"
)
_INTEL_PACKAGES: Final = "https://download.01.org/intel-sgx/sgx_repo/ubuntu"


def checks(facts: HostFacts) -> Iterator[Finding]:
    """Yield a finding for each requirement of gramine-sgx with DCAP attestation, in the order of fixing them."""
    for check in CHECKS:
        yield check(facts)


def processor(facts: HostFacts) -> Finding:
    """Check whether the processor has SGX and the BIOS enables it."""
    name, model = "processor", facts.processor.model or "an unknown processor"
    if "sgx" in facts.processor.flags:
        edmm = "; SGX2 (EDMM)" if facts.cpuid is not None and facts.cpuid.sgx2 else ""
        return _ok(name, f"{model}: SGX{edmm}")
    if facts.cpuid is not None and facts.cpuid.sgx:
        # Linux removes the flag if the BIOS did not enable SGX, or if it locked launch control
        # (arch/x86/kernel/cpu/feat_ctl.c).
        return _missing(name, f"{model}: SGX is supported but not enabled", _BIOS)
    unknown = " (according to /proc/cpuinfo; for CPUID, run `modprobe cpuid` and this command as root)"
    return _missing(name, f"{model}: no SGX{'' if facts.cpuid else unknown}", _BIOS)


def launch_control(facts: HostFacts) -> Finding:
    """Check whether the kernel may set the launch key, which Linux and DCAP require."""
    name = "launch control"
    if "sgx_lc" in facts.processor.flags or (facts.cpuid is not None and facts.cpuid.launch_control):
        return _ok(name, "flexible launch control (FLC)")
    return _missing(
        name,
        "no flexible launch control (FLC), which the Linux driver and DCAP require",
        "unlock launch control in the BIOS; processors without FLC (before 2018, and some later models) do not work",
    )


def kernel(facts: HostFacts) -> Finding:
    """Check whether Gramine supports the kernel."""
    name, version = "kernel", version_of(facts.kernel)
    needed = ".".join(map(str, MINIMUM_KERNEL))
    remedy = "install a current image (`sealserve cloud show NAME` lists them); Ubuntu 22.04 has 5.15, 24.04 has 6.8"
    if version is None:
        return _missing(name, f"{facts.kernel or 'unknown'}: Gramine requires Linux {needed} or later", remedy)
    if version >= MINIMUM_KERNEL:
        edmm = "" if version >= EDMM_KERNEL else "; EDMM requires 6.0"
        return _ok(name, f"Linux {facts.kernel}{edmm}")
    if facts.enclave_device.character_device and facts.fsgsbase:
        return _note(
            name,
            f"Linux {facts.kernel} has a backported SGX driver; Gramine supports only {needed} or later",
            remedy,
        )
    return _missing(name, f"Linux {facts.kernel} is too old: Gramine requires {needed} or later", remedy)


def fsgsbase(facts: HostFacts) -> Finding:
    """Check whether programs may use the FSGSBASE instructions. Without them, gramine-sgx does not start."""
    if facts.fsgsbase:
        return _ok("FSGSBASE", "enabled")
    return _missing(
        "FSGSBASE",
        "the kernel does not report FSGSBASE support" if facts.fsgsbase is None else "disabled",
        "install Linux 5.9 or later, and remove `nofsgsbase` from the kernel command line",
    )


def driver(facts: HostFacts) -> Finding:
    """Check whether this user may open the kernel's enclave device."""
    name, device = "driver", facts.enclave_device
    if not device.exists:
        old = (
            f"; {', '.join(facts.old_devices)} belongs to an older driver that Gramine 1.9 does not support"
            if facts.old_devices
            else ""
        )
        return _missing(
            name,
            f"{device.path} does not exist{old}",
            "install Linux 5.11 or later with CONFIG_X86_SGX, and enable SGX; check `dmesg | grep -i sgx`",
        )
    if not device.character_device:
        return _missing(
            name,
            f"{device.path} is not a character device",
            f"remove it with `rm {device.path}`; the kernel then creates the device",
        )
    if not device.usable:
        return _missing(
            name,
            f"{device.path} exists (mode {device.mode:04o}), but this user may not open it",
            "run as root, or run `usermod -aG sgx USER` and log in again (`ls -l` shows the device's group)",
        )
    return _ok(name, f"{device.path} (mode {device.mode:04o})")


def executable_devices(facts: HostFacts) -> Finding:
    """Check whether enclaves can be mapped: some systems (systemd 247, container runtimes) mount /dev as noexec."""
    name = "/dev"
    if facts.dev_executable is False:
        return _missing(
            name,
            "/dev is mounted noexec: code pages of enclaves cannot be mapped",
            "run `mount -o remount,exec /dev` and edit /etc/fstab; see https://github.com/systemd/systemd/pull/17940",
        )
    return _ok(name, "not mounted noexec" if facts.dev_executable else "not a separate mount")


def provision_device(facts: HostFacts) -> Finding:
    """Check whether aesmd can create quotes. Only aesmd needs the provisioning device."""
    name, device = "provisioning", facts.provision_device
    if not device.character_device:
        return _missing(
            name,
            f"{device.path} does not exist: aesmd cannot create quotes",
            "fix the driver first: it creates this device",
        )
    if device.mode & 0o006:
        return _note(
            name,
            f"every user may open {device.path} (mode {device.mode:04o}): any program can identify this platform",
            f"run `chmod 660 {device.path}` and set its group to sgx_prv: only aesmd needs it",
        )
    return _ok(name, f"{device.path} (mode {device.mode:04o})")


def enclave_memory(facts: HostFacts) -> Finding:
    """Check whether the machine has enough protected memory (EPC)."""
    name = "EPC"
    epc = epc_size(facts)
    if epc is None:
        return _note(
            name,
            "unknown size (Linux reports it since 5.17; CPUID reports it to root)",
            "run `modprobe cpuid`, then run this command as root",
        )
    if epc == 0:
        return _missing(name, "no protected memory", "assign memory to SGX in the BIOS (PRMRR size)")
    found = size_text(epc)
    if epc < SMALL_EPC:
        return _note(
            name,
            f"{found}: the pages of larger enclaves are swapped, which is slow",
            "use a server processor, or an instance type with more EPC",
        )
    return _ok(name, f"{found}, shared by all enclaves of this machine")


def aesmd(facts: HostFacts) -> Finding:
    """Check whether Intel's architectural enclave service (aesmd) answers."""
    name, found = "aesmd", facts.aesmd
    remedy = (
        "run `apt-get install sgx-aesm-service libsgx-aesm-ecdsa-plugin libsgx-aesm-quote-ex-plugin` "
        f"(from {_INTEL_PACKAGES}), then `systemctl enable --now aesmd`"
    )
    if not found.exists:
        return _missing(name, f"{found.socket} does not exist", remedy)
    if not found.answers:
        return _missing(
            name,
            f"{found.socket} does not answer: {found.reason}",
            "run `systemctl restart aesmd`, and read `journalctl -u aesmd`",
        )
    return _ok(name, f"answers at {found.socket}")


def quote_provider(facts: HostFacts) -> Finding:
    """Check whether quotes can carry the platform's certificates. The broker rejects quotes without them."""
    if facts.quote_provider:
        return _ok("quote provider", facts.quote_provider)
    return _missing(
        "quote provider",
        "libdcap_quoteprov.so is missing: quotes would lack the platform's certificates, so the broker rejects them",
        f"run `apt-get install libsgx-dcap-default-qpl` (from {_INTEL_PACKAGES})",
    )


def pccs(facts: HostFacts) -> Finding:
    """Check whether the PCCS, which provides the platform's certificates, answers."""
    name, found = "PCCS", facts.pccs
    remedy = "write the file, for a cloud with `sealserve cloud qcnl NAME`; then run `systemctl restart aesmd`"
    if not found.configured:
        return _missing(name, "no PCCS is configured: /etc/sgx_default_qcnl.conf does not exist", remedy)
    if not found.url:
        return _missing(name, found.reason, remedy)
    if found.status is None:
        if found.reason:
            return _missing(
                name,
                f"{found.url} does not answer: {found.reason}",
                f"allow connections from this machine to the PCCS; or: {remedy}",
            )
        return _note(name, f"{found.url}, not contacted")
    if found.status != 200:  # noqa: PLR2004  # HTTP's OK
        return _missing(
            name,
            f"{found.url} answers with HTTP status {found.status}",
            f"check that the URL is the base of the API; or: {remedy}",
        )
    return _ok(name, f"{found.url} answers")


def gramine(facts: HostFacts) -> Finding:
    """Check whether Gramine is installed, in a version with a supported manifest syntax."""
    name, found = "Gramine", facts.gramine
    remedy = f"install Gramine: {INSTALLATION}"
    wanted = ".".join(map(str, MINIMUM_GRAMINE))
    if not found.path:
        return _missing(name, "gramine-sgx is not installed", remedy)
    version = version_of(found.version)
    if version is None:
        return _note(name, f"{found.path} does not report its version; sealserve supports {wanted}", remedy)
    if version < MINIMUM_GRAMINE:
        return _missing(name, f"{found.version} at {found.path}: too old, the manifests require {wanted}", remedy)
    if version > MINIMUM_GRAMINE:
        return _note(
            name,
            f"{found.version} at {found.path}: newer than the supported version {wanted}",
            "see docs/reference/compatibility.md",
        )
    return _ok(name, f"{found.version} at {found.path}")


def gramine_direct(program: str | None, *, libos: Path) -> Finding:
    """Check whether Gramine can run simulated enclaves without SGX.

    Args:
        program: The path of ``gramine-direct``, or None if it is not on the search path.
        libos: The path of Gramine's library OS, which is measured into the enclaves.
    """
    name, remedy = "gramine-direct", f"install Gramine 1.9 or later: {INSTALLATION}"
    if program is None:
        return _missing(name, "gramine-direct is not installed, or is not on the search path (PATH)", remedy)
    if not libos.is_file():
        return _missing(name, f"{program}, but {libos} is missing", remedy)
    return _ok(name, f"{program}; it does not protect the model from root")


def confinement(facts: HostFacts) -> Finding:
    """Check whether a seccomp filter or an AppArmor profile restricts system calls that Gramine uses."""
    name, found = "confinement", facts.confinement
    where = "in a container" if found.container else "not in a container"
    if found.apparmor and found.seccomp == 2:  # noqa: PLR2004  # a filter
        text = f"{where}; a seccomp filter, AppArmor {found.apparmor}"
    elif found.apparmor:
        text = f"{where}; AppArmor {found.apparmor}"
    elif found.seccomp == 2:  # noqa: PLR2004
        text = f"{where}; a seccomp filter"
    else:
        return _ok(name, f"{where}; no seccomp filter, no AppArmor profile")
    return _note(
        name,
        f"{text}: gramine-sgx works; gramine-direct requires a profile that allows its system calls",
        "use Gramine's seccomp profile: https://github.com/gramineproject/gramine/blob/v1.9/scripts/docker_seccomp_aug_2022.json",
    )


def clock(facts: HostFacts) -> Finding:
    """Check whether the time is correct: certificates expire, and enclaves use the host's time."""
    name, found = "clock", facts.clock
    remedy = "run `timedatectl set-ntp true`, or install chrony"
    if found.skew is not None:
        seconds = found.skew.total_seconds()
        text = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the PCCS"
        if abs(found.skew) > CLOCK_SKEW:
            return _missing(name, f"{text}: TLS certificates and quotes will not verify", remedy)
        if abs(found.skew) > SKEW:
            return _note(name, text, remedy)
        return _ok(name, "agrees with the PCCS")
    if found.synchronized:
        return _ok(name, "synchronized by a time service")
    if found.synchronized is None:
        return _note(name, "unknown: no time source to compare with", remedy)
    return _note(name, "not synchronized by a time service yet", remedy)


def cloud(facts: HostFacts, preset: Preset) -> Finding:
    """Check whether this machine requests the platform's certificates from the cloud's own PCCS."""
    service = preset.pccs.value
    expected = [service.address(region) for region in service.regions or (None,)]
    if _base(facts.pccs.url) in map(_base, expected):
        return _ok("cloud", f"{preset.cloud}: the configured PCCS is the cloud's")
    region = " --region REGION" if service.regions else ""
    return _note(
        "cloud",
        f"{preset.cloud}: the configured PCCS is not the cloud's ({service.url})",
        f"run `sealserve cloud qcnl {preset.cloud}{region} | sudo tee {qcnl.PATH}`",
    )


CHECKS: Final[tuple[Callable[[HostFacts], Finding], ...]] = (
    processor,
    launch_control,
    enclave_memory,
    kernel,
    fsgsbase,
    driver,
    executable_devices,
    provision_device,
    confinement,
    clock,
    aesmd,
    quote_provider,
    pccs,
    gramine,
)


def epc_size(facts: HostFacts) -> int | None:
    """Return the protected memory of the machine in bytes, or None if it is unknown."""
    if facts.epc_bytes is None and facts.cpuid is not None:
        return facts.cpuid.epc_bytes
    return facts.epc_bytes


def size_text(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _base(url: str) -> str:
    """Return the common part of a service's URLs: without the API version and without -vpc (the internal address)."""
    return re.sub(r"/v\d+/?$", "", url.replace("sgx-dcap-server-vpc.", "sgx-dcap-server."))


def version_of(text: str) -> Version | None:
    """Return the first two numbers of a version or of a kernel release."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _ok(name: str, found: str) -> Finding:
    return Finding(machine=Machine.HOST, name=name, verdict=Verdict.OK, found=found)


def _note(name: str, found: str, remedy: str = "") -> Finding:
    return Finding(machine=Machine.HOST, name=name, verdict=Verdict.NOTE, found=found, remedy=remedy)


def _missing(name: str, found: str, remedy: str) -> Finding:
    return Finding(machine=Machine.HOST, name=name, verdict=Verdict.MISSING, found=found, remedy=remedy)
