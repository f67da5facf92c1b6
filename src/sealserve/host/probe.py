"""Probes this machine: files, devices, one program, one socket, one HTTP request. It judges and changes nothing.

Sources of the facts:

- ``/proc/cpuinfo``, flags ``sgx`` and ``sgx_lc`` (Linux, Documentation/arch/x86/sgx.rst: "grep sgx /proc/cpuinfo");
- ``/dev/cpu/0/cpuid``, for root (Linux, arch/x86/kernel/cpuid.c): features of the processor, enabled or not;
- AT_HWCAP2 in ``/proc/self/auxv``, bit 1 (Linux, Documentation/arch/x86/x86_64/fsgs.rst), as gramine-sgx does
  (Gramine 1.9, pal/src/host/linux-sgx/host_main.c);
- ``/sys/devices/system/node/node*/x86/sgx_total_bytes``, since Linux 5.17
  (Documentation/ABI/stable/sysfs-devices-node);
- aesmd's socket, at the path that Gramine uses (pal/src/host/linux-sgx/host_platform.c).
"""

import os
import re
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from sealserve.host import qcnl
from sealserve.host.cpuid import REGISTERS_SIZE, Registers, SgxSupport, sgx_support
from sealserve.host.facts import (
    AESM_SOCKET,
    ENCLAVE_DEVICE,
    PROVISION_DEVICE,
    Aesmd,
    Clock,
    Confinement,
    Device,
    Gramine,
    HostFacts,
    Pccs,
)
from sealserve.host.processor import read_processor
from sealserve.host.qcnl import QcnlError
from sealserve.http_cutoff import OWN_CONNECTION, Cutoff

ROOT: Final = Path("/")
PCCS_QUESTION: Final = "pckcrl?ca=processor"
"""A request that every PCCS and Intel's PCS answer without authentication: a CA's certificate revocation list."""

_OLD_DEVICES: Final = ("/dev/isgx", "/dev/sgx", "/dev/sgx/enclave", "/dev/gsgx")
_QUOTE_PROVIDERS: Final = tuple(
    f"{folder}/libdcap_quoteprov.so*"
    for folder in ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib")
)
_HWCAP2: Final = 26
_FSGSBASE: Final = 1 << 1
_MAX_BYTES: Final = 1 << 20
_SECONDS: Final = 5.0
_VERSION: Final = re.compile(r"^Gramine (\S+)")


class Answer(NamedTuple):
    """The answer of a PCCS: an HTTP status, and the ``Date`` header."""

    status: int
    date: str


Ask = Callable[[str, bool], Answer]
"""Called with a URL, and whether to verify the server's certificate. May raise `httpx.HTTPError`."""


def ask(url: str, verify: bool) -> Answer:
    """Send the request over the network, with a timeout of a few seconds. The body is not read."""
    with (
        Cutoff(2 * _SECONDS) as cutoff,
        httpx.Client(verify=verify, timeout=_SECONDS) as client,
        client.stream("GET", url, headers=OWN_CONNECTION, extensions=cutoff.extensions) as response,
    ):
        return Answer(response.status_code, response.headers.get("Date", ""))


def gather(*, root: Path = ROOT, ask: Ask | None = None) -> HostFacts:
    """Return the facts about this machine. Facts that cannot be read are left out. This raises no exception.

    Args:
        root: The root of the machine's file system.
        ask: Sends a request to the PCCS. None to use no network.
    """
    pccs, skew = _pccs(root, ask)
    return HostFacts(
        system=_system(root),
        kernel=_text(root / "proc/sys/kernel/osrelease").strip(),
        processor=read_processor(root=root),
        cpuid=_cpuid(root / "dev/cpu/0/cpuid"),
        fsgsbase=_fsgsbase(root / "proc/self/auxv"),
        enclave_device=_device(root, ENCLAVE_DEVICE),
        provision_device=_device(root, PROVISION_DEVICE),
        old_devices=tuple(path for path in _OLD_DEVICES if _is_device(root / path.lstrip("/"))),
        dev_executable=_executable(root),
        epc_bytes=_epc_bytes(root),
        aesmd=_aesmd(root),
        quote_provider=_quote_provider(root),
        pccs=pccs,
        gramine=_gramine(shutil.which("gramine-sgx")),
        confinement=_confinement(root),
        clock=Clock(synchronized=_synchronized(root), skew=skew),
    )


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8", "replace")


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return b""


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  # Path.exists raises if a folder may not be searched


def _system(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text(root / "etc/os-release"), re.MULTILINE)
    return found[1] if found else ""


def _cpuid(device: Path) -> SgxSupport | None:
    try:
        with device.open("rb", buffering=0) as file:
            return sgx_support(_reader(file.fileno()))
    except (OSError, struct.error):
        return None


def _reader(descriptor: int) -> Callable[[int, int], Registers]:
    def read(leaf: int, subleaf: int) -> Registers:
        return Registers.unpack(os.pread(descriptor, REGISTERS_SIZE, leaf | subleaf << 32))

    return read


def _fsgsbase(auxiliary_vector: Path) -> bool | None:
    data = _bytes(auxiliary_vector)
    whole = len(data) // 16 * 16
    values = dict(struct.iter_unpack("<QQ", data[:whole]))
    return bool(values[_HWCAP2] & _FSGSBASE) if _HWCAP2 in values else None


def _device(root: Path, path: str) -> Device:
    node = root / path.lstrip("/")
    try:
        status = node.stat()
    except OSError:
        return Device(path=path)
    return Device(
        path=path,
        exists=True,
        character_device=stat.S_ISCHR(status.st_mode),
        usable=os.access(node, os.R_OK | os.W_OK),
        mode=stat.S_IMODE(status.st_mode),
    )


def _is_device(node: Path) -> bool:
    try:
        return node.is_char_device()
    except OSError:
        return False


def _executable(root: Path) -> bool | None:
    """Return whether /dev allows code mappings, from /proc/self/mountinfo (proc(5): 5 mount point, 6 options)."""
    options = None
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[4] == "/dev":  # noqa: PLR2004  # proc(5) numbers them
            options = fields[5].split(",")
    return None if options is None else "noexec" not in options


def _epc_bytes(root: Path) -> int | None:
    sizes = [_text(file) for file in root.glob("sys/devices/system/node/node*/x86/sgx_total_bytes")]
    found = [int(size) for size in sizes if size.strip().isdecimal()]
    return sum(found) if found else None


def _aesmd(root: Path) -> Aesmd:
    path = root / AESM_SOCKET.lstrip("/")
    if not _is_there(path):
        return Aesmd(socket=AESM_SOCKET)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(str(path))
    except OSError as error:
        return Aesmd(socket=AESM_SOCKET, exists=True, reason=error.strerror or str(error))
    return Aesmd(socket=AESM_SOCKET, exists=True, answers=True)


def _quote_provider(root: Path) -> str:
    for pattern in _QUOTE_PROVIDERS:
        if found := sorted(root.glob(pattern)):
            return f"/{found[0].relative_to(root)}"
    return ""


def _pccs(root: Path, ask: Ask | None) -> tuple[Pccs, timedelta | None]:
    file = root / qcnl.PATH.lstrip("/")
    if not _is_there(file):
        return Pccs(), None
    try:
        config = qcnl.parse(_text(file))
    except QcnlError as error:
        return Pccs(configured=True, reason=error.message), None
    found = Pccs(url=config.pccs_url, configured=True)
    if ask is None:
        return found, None
    try:
        answer = ask(f"{config.pccs_url.rstrip('/')}/{PCCS_QUESTION}", config.use_secure_cert)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return replace(found, reason=str(error) or type(error).__name__), None
    return replace(found, status=answer.status), _skew(answer.date)


def _skew(date: str) -> timedelta | None:
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    return datetime.now(UTC) - (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC))


def _gramine(program: str | None) -> Gramine:
    if program is None:
        return Gramine()
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    found = _VERSION.match(said)
    return Gramine(path=program, version=found[1] if found else "")


def _confinement(root: Path) -> Confinement:
    seccomp = re.search(r"^Seccomp:\s*(\d)$", _text(root / "proc/self/status"), re.MULTILINE)
    profile = _text(root / "proc/self/attr/current").strip("\0\n ")
    return Confinement(
        container=_is_there(root / ".dockerenv") or _is_there(root / "run/.containerenv"),
        seccomp=int(seccomp[1]) if seccomp else None,
        apparmor="" if profile == "unconfined" else profile,
    )


def _synchronized(root: Path) -> bool | None:
    """Return whether a time service reports that it set the clock. Only systemd-timesyncd leaves a marker file."""
    if _is_there(root / "run/systemd/timesync/synchronized"):
        return True
    return False if _is_there(root / "run/systemd/timesync") else None
