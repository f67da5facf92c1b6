"""Facts about a machine, before any judgment. They contain no host name, address, user or serial number."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sealserve.host.cpuid import SgxSupport

ENCLAVE_DEVICE: Final = "/dev/sgx_enclave"
"""The only device that gramine-sgx opens (Gramine 1.9, pal/src/host/linux-sgx/host_framework.c)."""

PROVISION_DEVICE: Final = "/dev/sgx_provision"
"""The device that only aesmd needs, to create quotes."""

AESM_FOLDER: Final = "/var/run/aesmd"
"""Folder of aesmd's socket. Containers mount the folder, because a mounted socket breaks when aesmd restarts."""

AESM_SOCKET: Final = f"{AESM_FOLDER}/aesm.socket"
"""The path where Gramine expects aesmd's socket (Gramine 1.9, pal/src/host/linux-sgx/host_platform.c)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The first processor in ``/proc/cpuinfo``.

    Attributes:
        model: The model name.
        flags: Features that the kernel found and left enabled.
    """

    model: str = ""
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device node.

    Attributes:
        path: The expected path.
        exists: Whether the path exists.
        character_device: Whether it is a character device.
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
    """Intel's service that creates quotes (aesmd).

    Attributes:
        socket: The path where enclaves expect its socket.
        exists: Whether the socket exists.
        answers: Whether it accepts a connection.
        reason: Why it does not.
    """

    socket: str
    exists: bool = False
    answers: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pccs:
    """The PCCS (the service for a platform's certificates), and its answer to a probe.

    Attributes:
        url: The base URL. Empty if no configuration sets it.
        configured: Whether a configuration file exists.
        status: The HTTP status of its revocation list. None if it was not contacted or did not answer.
        reason: The fault of the configuration, or the reason why the PCCS did not answer.
    """

    url: str = ""
    configured: bool = False
    status: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gramine:
    """Gramine's loader.

    Attributes:
        path: Its path. Empty if it is not installed.
        version: The version that it reports, such as ``1.9``. Empty if it reports none.
    """

    path: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """Restrictions on this process beyond the permissions of its user.

    Attributes:
        container: Whether it runs in a container.
        seccomp: 0 off, 1 strict, 2 a filter (``Seccomp:`` in ``/proc/self/status``). None if unknown.
        apparmor: The AppArmor profile that confines it. Empty if there is none.
    """

    container: bool = False
    seccomp: int | None = None
    apparmor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The accuracy of this machine's clock.

    Attributes:
        synchronized: Whether a time service reports that it has set the clock. None if no service reports.
        skew: This clock minus the clock of the PCCS. None if the PCCS was not contacted.
    """

    synchronized: bool | None = None
    skew: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The facts about a machine that matter for enclaves.

    Attributes:
        system: The distribution's name and version.
        kernel: The kernel release, such as ``5.15.0-1102-azure``.
        processor: The processor as the kernel describes it.
        cpuid: The SGX support that CPUID reports. None if it could not be read.
        fsgsbase: Whether the kernel lets programs use the FSGSBASE instructions. None if unknown.
        enclave_device: ``/dev/sgx_enclave``.
        provision_device: ``/dev/sgx_provision``.
        old_devices: Device nodes of drivers that were never part of the Linux kernel.
        dev_executable: Whether code may be mapped from device nodes. None if unknown.
        epc_bytes: The enclave page cache that the kernel manages, in bytes. None if the kernel does not report it.
        aesmd: Intel's service that creates quotes.
        quote_provider: The library through which aesmd gets the platform's certificates. Empty if it is missing.
        pccs: The PCCS that this library contacts.
        gramine: Gramine's loader.
        confinement: Restrictions on this process.
        clock: The accuracy of the clock.
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
