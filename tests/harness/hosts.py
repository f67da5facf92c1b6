"""What real machines say of their SGX, and file systems that say it.

CPUID registers as people published them, from https://github.com/ayeks/SGX-hardware (its test-sgx.c prints them): the
issue or pull request stands beside each. Leaf 0 is not in those listings; every processor with leaf 12H has it.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from sealserve.host.cpuid import FEATURE_LEAF, SGX_LEAF, VENDOR_LEAF, ReadLeaf, Registers

Leaves = Mapping[tuple[int, int], Registers]

_NOTHING = Registers(0, 0, 0, 0)
INTEL = Registers(0x1B, *struct.unpack("<I", b"Genu"), *struct.unpack("<I", b"ntel"), *struct.unpack("<I", b"ineI"))
AMD = Registers(0x10, *struct.unpack("<I", b"Auth"), *struct.unpack("<I", b"cAMD"), *struct.unpack("<I", b"enti"))


def leaves(features: Registers, *sgx: Registers, vendor: Registers = INTEL) -> Leaves:
    """Return what a processor answers: leaf 07H, and the sub-leaves of 12H from 0 on."""
    return {(VENDOR_LEAF, 0): vendor, (FEATURE_LEAF, 0): features} | {
        (SGX_LEAF, number): registers for number, registers in enumerate(sgx)
    }


AZURE_DC2DS_V3 = leaves(  # issue 92, 2022-05-12: Standard_DC2ds_v3, "8192 M"
    Registers(0x1, 0xF1BF2FBF, 0x40415F46, 0x20000010),
    Registers(0x3, 0x1, 0x0, 0x381F),
    Registers(0xB6, 0x0, 0x2E7, 0x0),
    Registers(0xC0000001, 0x4, 0x1, 0x2),
)
ALIBABA_VSGX = leaves(  # pull request 81, 2021-07-20: an ECS instance with SGX, "23808 M"
    Registers(0x0, 0xF03F07AF, 0x40405F42, 0x10),
    Registers(0x3, 0x1, 0x0, 0x381F),
    Registers(0xB6, 0x0, 0xE7, 0x0),
    Registers(0x40000001, 0x6, 0xD0000002, 0x5),
)
TWO_SOCKETS = leaves(  # issue 99, 2022-09-20: PhoenixNAP d2.m2.medium, "2028 M" and "2036 M"
    Registers(0x2, 0xF3BFB7EF, 0x40417F5E, 0xBC040412),
    Registers(0x403, 0x1, 0x0, 0x381F),
    Registers(0xB6, 0x0, 0x2E7, 0x0),
    Registers(0xC00001, 0x40, 0x7EC00002, 0x0),
    Registers(0xC00001, 0x80, 0x7F400002, 0x0),
)
CLIENT_XEON = leaves(  # pull request 88, 2022-01-22: Xeon E-2276G, "93 M"
    Registers(0x0, 0x29C6FBF, 0x40000000, 0x9C002E00),
    Registers(0x1, 0x0, 0x0, 0x241F),
    Registers(0x36, 0x0, 0x1F, 0x0),
    Registers(0x70200001, 0x0, 0x5D80001, 0x0),
)
DISABLED_IN_BIOS = leaves(  # issue 91, 2022-04-23: Equinix c3.small.x86
    Registers(0x0, 0x29C67AF, 0x40000000, 0xBC000600), _NOTHING, _NOTHING, _NOTHING
)
NO_LAUNCH_CONTROL = leaves(  # intel/linux-sgx-driver issue 153, 2023-08-02 (EBX cut short there: bit 2 is set)
    Registers(0x0, 0x29C67AF, 0x0, 0xBC002E00), Registers(0x1, 0x0, 0x0, 0x241F), Registers(0x36, 0x0, 0x1F, 0x0)
)
NO_SGX = leaves(Registers(0x0, 0xF1BF07A9, 0x1A405FE6, 0xAC004410))
NOT_INTEL = leaves(Registers(0x0, 0x219C97A9, 0x40068C, 0x0), vendor=AMD)


def reader(of: Leaves) -> ReadLeaf:
    """Return a processor that answers as ``of`` says."""
    return lambda leaf, subleaf: of.get((leaf, subleaf), _NOTHING)


def device_reads(of: Leaves) -> Callable[[int, int, int], bytes]:
    """Return what `os.pread` does with ``/dev/cpu/0/cpuid``: the offset is the leaf, and above 32 bits the sub-leaf."""
    return lambda _file, _size, offset: struct.pack("<4I", *reader(of)(offset & 0xFFFFFFFF, offset >> 32))


# /proc/cpuinfo in the form of Linux 5.15, with only the flags that matter here.
ICE_LAKE_CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 106
model name\t: Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz
stepping\t: 6
flags\t\t: fpu vme de pse tsc msr nx lm hypervisor fsgsbase sgx bmi1 avx2 smep umip pku rdpid sgx_lc fsrm md_clear
bogomips\t: 5586.87

processor\t: 1
vendor_id\t: GenuineIntel
"""
WITHOUT_SGX_CPUINFO = ICE_LAKE_CPUINFO.replace(" sgx ", " ").replace(" sgx_lc", "")
UBUNTU_22_04 = 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\n'
MOUNTS = "24 31 0:5 / /dev rw,nosuid,relatime shared:2 - devtmpfs udev rw,size=8145364k,mode=755,inode64\n"
HWCAP2 = 26


def write_root(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write a file system with ``files``, by their absolute paths; return its root."""
    for path, content in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def auxiliary_vector(values: Mapping[int, int]) -> bytes:
    """Return ``/proc/self/auxv``."""
    return b"".join(struct.pack("<QQ", name, value) for name, value in [*values.items(), (0, 0)])


AZURE_FILES: Mapping[str, str | bytes] = {
    "/etc/os-release": UBUNTU_22_04,
    "/proc/sys/kernel/osrelease": "6.8.0-1041-azure\n",
    "/proc/cpuinfo": ICE_LAKE_CPUINFO,
    "/proc/self/auxv": auxiliary_vector({16: 0x1F8BFBFF, HWCAP2: 0x2}),
    "/proc/self/mountinfo": MOUNTS,
    "/proc/self/status": "Name:\tpython3\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n",
    "/proc/self/attr/current": "unconfined\n",
    "/sys/devices/system/node/node0/x86/sgx_total_bytes": "8589934592\n",
    "/usr/lib/x86_64-linux-gnu/libdcap_quoteprov.so.1": b"",
    "/run/systemd/timesync/synchronized": b"",
    "/etc/sgx_default_qcnl.conf": '{"pccs_url": "https://global.acccache.azure.net/sgx/certification/v4/"}',
}
"""The files of a complete Azure DCsv3 machine, except the devices, which only root can create."""
