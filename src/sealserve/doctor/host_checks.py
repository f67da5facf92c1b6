"""What a host of real enclaves must have: one pure function for each thing, over the facts that were found.

Sources: Gramine 1.9, Documentation/sgx-setup.rst and devel/building.rst (what it needs), tools/sgx/is-sgx-available
(how it looks); Linux, Documentation/arch/x86/sgx.rst; Intel SGX Software Installation Guide for Linux.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from sealserve.clock import CLOCK_SKEW
from sealserve.clouds.facts import Preset
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.enclave.gramine_tools import INSTALLATION
from sealserve.host import qcnl
from sealserve.host.facts import HostFacts

Version = tuple[int, int]

MINIMUM_KERNEL: Final[Version] = (5, 11)
"""Gramine 1.9, Documentation/sgx-setup.rst: the first with the SGX driver and FSGSBASE."""
EDMM_KERNEL: Final[Version] = (6, 0)
"""Gramine 1.9, Documentation/manifest-syntax.rst, "EDMM"."""
MINIMUM_GRAMINE: Final[Version] = (1, 9)
"""The manifests are written in its syntax."""
SMALL_EPC: Final = 1 << 30
"""Bytes. Client processors have 93 MiB (128 MiB reserved): pages of a larger enclave are swapped, slowly."""
SKEW: Final = timedelta(seconds=30)

_BIOS: Final = (
    'enable SGX in the BIOS ("Enabled", not "Software Controlled"); '
    "in a cloud, take a size that has it (`sealserve cloud list`)"
)
_INTEL_PACKAGES: Final = "https://download.01.org/intel-sgx/sgx_repo/ubuntu"


def checks(facts: HostFacts) -> Iterator[Finding]:
    """Yield a finding for each thing that gramine-sgx with DCAP attestation needs, in the order of mending them."""
    for check in CHECKS:
        yield check(facts)


def processor(facts: HostFacts) -> Finding:
    """Judge whether the processor has SGX, and the BIOS left it on."""
    name, model = "processor", facts.processor.model or "an unknown processor"
    if "sgx" in facts.processor.flags:
        edmm = "; SGX2 (EDMM)" if facts.cpuid is not None and facts.cpuid.sgx2 else ""
        return _ok(name, f"{model}: SGX{edmm}")
    if facts.cpuid is not None and facts.cpuid.sgx:
        # Linux takes the flag away where the BIOS did not enable SGX, or locked launch control
        # (arch/x86/kernel/cpu/feat_ctl.c).
        return _missing(name, f"{model}: it has SGX, which is not enabled", _BIOS)
    unknown = " (flags of /proc/cpuinfo; root can also ask the processor: `modprobe cpuid`)" if not facts.cpuid else ""
    return _missing(name, f"{model}: no SGX{unknown}", _BIOS)


def launch_control(facts: HostFacts) -> Finding:
    """Judge whether the kernel may set the launch key: Linux and DCAP need it."""
    name = "launch control"
    if "sgx_lc" in facts.processor.flags or (facts.cpuid is not None and facts.cpuid.launch_control):
        return _ok(name, "flexible launch control (FLC)")
    return _missing(
        name,
        "no flexible launch control (FLC): Linux takes no SGX without it, and DCAP neither",
        "unlock launch control in the BIOS; a processor without FLC (before 2018, and some after) cannot be used",
    )


def kernel(facts: HostFacts) -> Finding:
    """Judge whether the kernel is one that Gramine supports."""
    name, version = "kernel", version_of(facts.kernel)
    needed = ".".join(map(str, MINIMUM_KERNEL))
    remedy = "install a current image (`sealserve cloud show NAME` lists them); Ubuntu 22.04 has 5.15, 24.04 has 6.8"
    if version is None:
        return _missing(name, f"{facts.kernel or 'unknown'}: Gramine needs Linux {needed} or later", remedy)
    if version >= MINIMUM_KERNEL:
        edmm = "" if version >= EDMM_KERNEL else "; EDMM needs 6.0"
        return _ok(name, f"Linux {facts.kernel}{edmm}")
    if facts.enclave_device.character_device and facts.fsgsbase:
        return _note(
            name,
            f"Linux {facts.kernel} has a driver that somebody took back to it: Gramine supports {needed} or later",
            remedy,
        )
    return _missing(name, f"Linux {facts.kernel} is too old: Gramine needs {needed} or later", remedy)


def fsgsbase(facts: HostFacts) -> Finding:
    """Judge whether programs may use the FSGSBASE instructions; gramine-sgx refuses to start without."""
    if facts.fsgsbase:
        return _ok("FSGSBASE", "enabled")
    return _missing(
        "FSGSBASE",
        "the kernel does not say that programs may use FSGSBASE" if facts.fsgsbase is None else "disabled",
        "Linux 5.9 or later, without `nofsgsbase` on its command line",
    )


def driver(facts: HostFacts) -> Finding:
    """Judge whether the kernel's driver gives this user enclaves."""
    name, device = "driver", facts.enclave_device
    if not device.exists:
        old = (
            f"; {', '.join(facts.old_devices)} belongs to a driver that Gramine 1.9 has no use for"
            if facts.old_devices
            else ""
        )
        return _missing(
            name,
            f"no {device.path}{old}",
            "Linux 5.11 or later with CONFIG_X86_SGX, and SGX enabled; look at `dmesg | grep -i sgx`",
        )
    if not device.character_device:
        return _missing(name, f"{device.path} is no device", f"remove it, and let the kernel make it: rm {device.path}")
    if not device.usable:
        return _missing(
            name,
            f"{device.path} is there (mode {device.mode:04o}), and this user may not open it",
            "run as root, or `usermod -aG sgx USER` and log in again (the group of the device: `ls -l`)",
        )
    return _ok(name, f"{device.path} (mode {device.mode:04o})")


def executable_devices(facts: HostFacts) -> Finding:
    """Judge whether enclaves can be mapped: /dev must not be mounted noexec (systemd 247, some container runtimes)."""
    name = "/dev"
    if facts.dev_executable is False:
        return _missing(
            name,
            "mounted noexec: code pages of enclaves cannot be mapped",
            "mount -o remount,exec /dev (and in /etc/fstab); see https://github.com/systemd/systemd/pull/17940",
        )
    return _ok(name, "not mounted noexec" if facts.dev_executable else "no mount of its own")


def provision_device(facts: HostFacts) -> Finding:
    """Judge whether aesmd can make quotes: it alone needs the provisioning device."""
    name, device = "provisioning", facts.provision_device
    if not device.character_device:
        return _missing(
            name, f"no {device.path}: aesmd cannot make quotes", "it comes with the driver: mend that first"
        )
    if device.mode & 0o006:
        return _note(
            name,
            f"{device.path} is open to everybody (mode {device.mode:04o}): any program can identify this platform",
            f"chmod 660 {device.path}, group sgx_prv: only aesmd needs it",
        )
    return _ok(name, f"{device.path} (mode {device.mode:04o})")


def enclave_memory(facts: HostFacts) -> Finding:
    """Judge whether there is protected memory enough."""
    name = "EPC"
    epc = _epc(facts)
    if epc is None:
        return _note(
            name,
            "nothing says how large it is (Linux says it since 5.17; the processor says it to root)",
            "`modprobe cpuid`, then again as root",
        )
    if epc == 0:
        return _missing(name, "no protected memory", "give SGX memory in the BIOS (PRMRR size)")
    found = _size(epc)
    if epc < SMALL_EPC:
        return _note(
            name, f"{found}: enclaves that are larger are swapped, slowly", "a server processor, or a larger size"
        )
    return _ok(name, f"{found}, for all enclaves of this machine together")


def aesmd(facts: HostFacts) -> Finding:
    """Judge whether Intel's service answers."""
    name, found = "aesmd", facts.aesmd
    remedy = (
        "apt-get install sgx-aesm-service libsgx-aesm-ecdsa-plugin libsgx-aesm-quote-ex-plugin "
        f"(from {_INTEL_PACKAGES}), then `systemctl enable --now aesmd`"
    )
    if not found.exists:
        return _missing(name, f"no {found.socket}", remedy)
    if not found.answers:
        return _missing(
            name, f"{found.socket} does not answer: {found.reason}", "`systemctl restart aesmd`, `journalctl -u aesmd`"
        )
    return _ok(name, f"answers at {found.socket}")


def quote_provider(facts: HostFacts) -> Finding:
    """Judge whether quotes can carry the platform's certificates; the broker refuses those without."""
    if facts.quote_provider:
        return _ok("quote provider", facts.quote_provider)
    return _missing(
        "quote provider",
        "no libdcap_quoteprov.so: quotes would lack the platform's certificates, and the broker refuses such",
        f"apt-get install libsgx-dcap-default-qpl (from {_INTEL_PACKAGES})",
    )


def pccs(facts: HostFacts) -> Finding:
    """Judge whether the platform's certificates can be had."""
    name, found = "PCCS", facts.pccs
    remedy = "`sealserve cloud qcnl NAME` writes /etc/sgx_default_qcnl.conf for a cloud; then `systemctl restart aesmd`"
    if not found.configured:
        return _missing(name, "no /etc/sgx_default_qcnl.conf says where it is", remedy)
    if not found.url:
        return _missing(name, found.reason, remedy)
    if found.status is None:
        if found.reason:
            return _missing(
                name, f"{found.url} does not answer: {found.reason}", f"let this machine reach it, or: {remedy}"
            )
        return _note(name, f"{found.url}, not asked")
    if found.status != 200:  # noqa: PLR2004  # HTTP's OK
        return _missing(name, f"{found.url} answers with HTTP status {found.status}", f"is it the API's base? {remedy}")
    return _ok(name, f"{found.url} answers")


def gramine(facts: HostFacts) -> Finding:
    """Judge whether Gramine is there, in a version whose manifest syntax is known."""
    name, found = "Gramine", facts.gramine
    wanted = ".".join(map(str, MINIMUM_GRAMINE))
    if not found.path:
        return _missing(name, "no gramine-sgx", INSTALLATION)
    version = version_of(found.version)
    if version is None:
        return _note(name, f"{found.path} does not say its version; {wanted} is known", INSTALLATION)
    if version < MINIMUM_GRAMINE:
        return _missing(name, f"{found.version} at {found.path}: manifests are written for {wanted}", INSTALLATION)
    if version > MINIMUM_GRAMINE:
        return _note(
            name,
            f"{found.version} at {found.path}: newer than {wanted}, which is known",
            "docs/reference/compatibility.md",
        )
    return _ok(name, f"{found.version} at {found.path}")


def confinement(facts: HostFacts) -> Finding:
    """Judge whether something confines this process in a way that Gramine would meet."""
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
        f"{text}: gramine-sgx gets by, gramine-direct needs a profile that admits its calls",
        "https://github.com/gramineproject/gramine/blob/v1.9/scripts/docker_seccomp_aug_2022.json",
    )


def clock(facts: HostFacts) -> Finding:
    """Judge whether this machine's time is right: certificates end, and enclaves take the host's time."""
    name, found = "clock", facts.clock
    remedy = "`timedatectl set-ntp true`, or chrony"
    if found.skew is not None:
        seconds = found.skew.total_seconds()
        text = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the PCCS"
        if abs(found.skew) > CLOCK_SKEW:
            return _missing(name, f"{text}: TLS and quotes will not verify", remedy)
        if abs(found.skew) > SKEW:
            return _note(name, text, remedy)
        return _ok(name, "agrees with the PCCS")
    if found.synchronized:
        return _ok(name, "set by a time service")
    if found.synchronized is None:
        return _note(name, "nothing to compare it with", remedy)
    return _note(name, "no time service has set it yet", remedy)


def cloud(facts: HostFacts, preset: Preset) -> Finding:
    """Judge whether the platform's certificates are asked for where the cloud keeps them."""
    service = preset.pccs.value
    expected = [service.address(region) for region in service.regions or (None,)]
    if _base(facts.pccs.url) in map(_base, expected):
        return _ok("cloud", f"{preset.cloud}: the PCCS is the cloud's")
    region = " --region REGION" if service.regions else ""
    return _note(
        "cloud",
        f"{preset.cloud}: the PCCS is not the cloud's ({service.url})",
        f"sealserve cloud qcnl {preset.cloud}{region} | sudo tee {qcnl.PATH}",
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


def room(facts: HostFacts, sizes: Sequence[int]) -> Finding | None:
    """Judge whether the enclaves of a release fit into the protected memory at once; None where nobody knows.

    Args:
        facts: What was found.
        sizes: The size of each enclave, in bytes.
    """
    epc = _epc(facts)
    if not sizes or not epc:
        return None
    wanted = f"the newest release's enclaves ({len(sizes)}) take {_size(sum(sizes))}"
    if sum(sizes) <= epc:
        return _ok("room", f"{wanted} of {_size(epc)}")
    return _note(
        "room",
        f"{wanted}, and the EPC has {_size(epc)}: their pages are swapped, slowly",
        "fewer replicas here, a smaller `enclave.size`, or a larger machine",
    )


def _epc(facts: HostFacts) -> int | None:
    if facts.epc_bytes is None and facts.cpuid is not None:
        return facts.cpuid.epc_bytes
    return facts.epc_bytes


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _base(url: str) -> str:
    """Return what two addresses of one service have in common: no version of the API, no -vpc (the inside)."""
    return re.sub(r"/v\d+/?$", "", url.replace("sgx-dcap-server-vpc.", "sgx-dcap-server."))


def version_of(text: str) -> Version | None:
    """Return the first two numbers of a version or of a kernel's release."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _ok(name: str, found: str) -> Finding:
    return Finding(machine=Machine.HOST, name=name, verdict=Verdict.OK, found=found)


def _note(name: str, found: str, remedy: str = "") -> Finding:
    return Finding(machine=Machine.HOST, name=name, verdict=Verdict.NOTE, found=found, remedy=remedy)


def _missing(name: str, found: str, remedy: str) -> Finding:
    return Finding(machine=Machine.HOST, name=name, verdict=Verdict.MISSING, found=found, remedy=remedy)
