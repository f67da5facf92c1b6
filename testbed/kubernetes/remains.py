"""Removes what a cluster leaves on a machine: processes, cgroups, mounts and kernel settings.

Program names do not identify parts of the testbed. Containers are found by the testbed's cgroups, shims by the socket
of their containerd, and mounts by the testbed's folders.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from testbed.kubernetes.layout import CGROUP, SOCKETS, STATE

_CGROUPS: Final = Path("/sys/fs/cgroup")
# Settings that the kubelet changes for the whole machine (pkg/kubelet/cm/container_manager_linux.go,
# setupKernelTunables).
_KERNEL: Final = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
                  "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")  # fmt: skip
# Folders that the kubelet and the network plugins create outside the configured folders.
_FOLDERS: Final = ("/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")
_CPU_SHARES: Final = "16384"  # the share of sixteen processes
_SAVED: Final = STATE / "before.json"


def remember() -> None:
    """Record, once, the settings that a kubelet changes, and which folders do not exist."""
    if not _SAVED.exists():
        settings = {name: Path("/proc/sys", name).read_text().strip() for name in _KERNEL}
        absent = [folder for folder in _FOLDERS if not Path(folder).exists()]
        _SAVED.write_text(json.dumps({"settings": settings, "absent": absent}))


def restore() -> None:
    """Restore the recorded settings, and remove the new folders."""
    if _SAVED.exists():
        before = json.loads(_SAVED.read_text())
        for name, value in before["settings"].items():
            Path("/proc/sys", name).write_text(value)
        for folder in before["absent"]:
            shutil.rmtree(folder, ignore_errors=True)


def make_cgroups(name: str) -> None:
    """Create a node's root cgroup in every hierarchy."""
    if (_CGROUPS / "cgroup.controllers").exists():
        for folder in (_CGROUPS, _CGROUPS / CGROUP):
            folder.mkdir(exist_ok=True)
            wanted = (folder / "cgroup.controllers").read_text().split()
            (folder / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in wanted))
        (_CGROUPS / CGROUP / name).mkdir(exist_ok=True)
        return
    for hierarchy in _hierarchies():
        if hierarchy.name == "unified":  # containerd creates its own cgroups there
            continue
        (hierarchy / CGROUP / name).mkdir(parents=True, exist_ok=True)
        if hierarchy.name == "cpu":  # on a busy machine, the whole cluster would get the share of one process
            for folder in (hierarchy / CGROUP, hierarchy / CGROUP / name):
                (folder / "cpu.shares").write_text(_CPU_SHARES)
        if hierarchy.name == "cpuset":  # a new cpuset is empty, and no process can enter it
            for folder in (hierarchy / CGROUP, hierarchy / CGROUP / name):
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    (folder / setting).write_text((folder.parent / setting).read_text())


def kill_containers() -> None:
    """Kill every process in the testbed's cgroups, and every shim of its containerds."""
    for _ in range(100):
        found = {*_in_cgroups(), *_shims()}
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def remove_shim_sockets() -> None:
    """Remove the shims' sockets, which are in a folder that all containerds of a machine share."""
    for address in SOCKETS.glob("*/containerd/io.containerd.runtime.v2.task/*/*/address"):
        Path(address.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)


def unmount() -> None:
    """Unmount everything in the testbed's folders, the innermost first."""
    points = [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if any(Path(point).is_relative_to(folder) for folder in (STATE, SOCKETS)):
            subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)


def remove_cgroups() -> None:
    """Remove the testbed's cgroups, the innermost first."""
    for hierarchy in _hierarchies():
        root = hierarchy / CGROUP
        for folder in sorted((path for path in [root, *root.rglob("*")] if path.is_dir()), reverse=True):
            for _ in range(20):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.05)


def _hierarchies() -> Iterator[Path]:
    if (_CGROUPS / "cgroup.controllers").exists():
        yield _CGROUPS
        return
    yield from (path for path in _CGROUPS.iterdir() if path.is_dir() and not path.is_symlink())


def _in_cgroups() -> Iterator[int]:
    for hierarchy in _hierarchies():
        for members in (hierarchy / CGROUP).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                yield from map(int, members.read_text().split())


def _shims() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if b"containerd-shim" in arguments[0] and any(
                    argument.startswith(os.fsencode(f"{SOCKETS}/")) for argument in arguments
                ):
                    yield int(entry.name)
