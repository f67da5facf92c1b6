"""What was found on a machine, before anybody judges it. No host name, address, user or serial number is among it."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sealserve.host.cpuid import SgxSupport

ENCLAVE_DEVICE: Final = "/dev/sgx_enclave"
"""All that gramine-sgx opens (Gramine 1.9, pal/src/host/linux-sgx/host_framework.c)."""

PROVISION_DEVICE: Final = "/dev/sgx_provision"
"""What only aesmd needs, to make quotes."""

AESM_FOLDER: Final = "/var/run/aesmd"
"""Where aesmd's socket is. Containers mount the folder: a mounted socket would be dead when aesmd restarts."""

AESM_SOCKET: Final = f"{AESM_FOLDER}/aesm.socket"
"""Where Gramine looks for aesmd (Gramine 1.9, pal/src/host/linux-sgx/host_platform.c)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What ``/proc/cpuinfo`` says of the first processor.

    Attributes:
        model: Its name.
        flags: What the kernel found in it and left enabled.
    """

    model: str = ""
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device node.

    Attributes:
        path: Where it was looked for.
        exists: Whether something is there.
        character_device: Whether it is a device at all.
        usable: Whether this process may read and write it.
        mode: Its permission bits.
    """

    path: str
    exists: bool = False
    character_device: bool = False
    usable: bool = False
    mode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Aesmd:
    """Intel's service that makes quotes.

    Attributes:
        socket: Where enclaves look for it.
        exists: Whether the socket is there.
        answers: Whether it takes a connection.
        reason: Why it does not.
    """

    socket: str
    exists: bool = False
    answers: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pccs:
    """Where a platform's certificates come from, and what it answered.

    Attributes:
        url: Its base address; empty where nothing says one.
        configured: Whether a configuration file names it.
        status: The HTTP status of its revocation list; None when it was not asked, or did not answer.
        reason: What is wrong with the configuration, or why there was no answer.
    """

    url: str = ""
    configured: bool = False
    status: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gramine:
    """Gramine's loader.

    Attributes:
        path: Where it is; empty where it is not.
        version: What it says of itself, such as ``1.9``; empty where it says nothing.
    """

    path: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What keeps this process from something that its user may do.

    Attributes:
        container: Whether it runs in one.
        seccomp: 0 off, 1 strict, 2 a filter (``Seccomp:`` in ``/proc/self/status``); None when nothing says.
        apparmor: The profile that confines it; empty where none does.
    """

    container: bool = False
    seccomp: int | None = None
    apparmor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How far this machine's time can be believed.

    Attributes:
        synchronized: Whether a time service says so; None when none does.
        skew: This clock minus the PCCS's; None when that was not asked.
    """

    synchronized: bool | None = None
    skew: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a machine offers to enclaves.

    Attributes:
        system: The distribution's name and version.
        kernel: The kernel's release, such as ``5.15.0-1102-azure``.
        processor: What the kernel says of the processor.
        cpuid: What the processor itself says; None where that could not be read.
        fsgsbase: Whether the kernel lets programs use the FSGSBASE instructions; None where nothing says.
        enclave_device: ``/dev/sgx_enclave``.
        provision_device: ``/dev/sgx_provision``.
        old_devices: Nodes of drivers that were not taken into Linux.
        dev_executable: Whether code may be mapped from device nodes; None where nothing says.
        epc_bytes: The enclave page cache that the kernel manages, in bytes; None where it does not say.
        aesmd: Intel's service that makes quotes.
        quote_provider: The library through which aesmd gets the platform's certificates; empty where there is none.
        pccs: Where that library asks.
        gramine: Gramine's loader.
        confinement: What confines this process.
        clock: How far its time can be believed.
    """

    system: str = ""
    kernel: str = ""
    processor: Processor = Processor()
    cpuid: SgxSupport | None = None
    fsgsbase: bool | None = None
    enclave_device: Device = Device(path=ENCLAVE_DEVICE)
    provision_device: Device = Device(path=PROVISION_DEVICE)
    old_devices: tuple[str, ...] = ()
    dev_executable: bool | None = None
    epc_bytes: int | None = None
    aesmd: Aesmd = Aesmd(socket=AESM_SOCKET)
    quote_provider: str = ""
    pccs: Pccs = field(default_factory=Pccs)
    gramine: Gramine = field(default_factory=Gramine)
    confinement: Confinement = field(default_factory=Confinement)
    clock: Clock = field(default_factory=Clock)
