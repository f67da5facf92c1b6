"""A real systemd as process 1 of its own namespaces, which runs the broker's unit from ``deploy/``.

It needs root, and changes nothing outside of its namespaces except one control group, which is removed at the end.

Source: https://systemd.io/CONTAINER_INTERFACE/, unshare(1), cgroup_namespaces(7).
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INIT = Path("/lib/systemd/systemd")
ALLOWED = "SEALSERVE_TEST_SYSTEMD"
UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "sealserve-broker.service"
_SECONDS = 90

# The program and the workspace are where the unit expects them. The service runs as root, because the account of the
# unit could not read a Python in root's home folder. It has no capabilities nevertheless.
_DROP_IN = """\
[Unit]
DefaultDependencies=no
Wants=
After=
[Service]
User=root
StandardError=append:{log}
"""
_SCRIPT = """\
set -e
mount --make-rprivate /
test -e /sys/fs/cgroup/cgroup.controllers || mount -t cgroup2 none /sys/fs/cgroup
mkdir /sys/fs/cgroup/{group}
echo $$ > /sys/fs/cgroup/{group}/cgroup.procs
exec unshare --pid --fork --kill-child --cgroup --ipc --uts --mount sh -ec '
mount -t proc proc /proc
umount --lazy /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/systemd/system
echo 0123456789abcdef0123456789abcdef > /run/machine-id
test ! -e /etc/machine-id || mount --bind /run/machine-id /etc/machine-id
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
mount -t tmpfs -o mode=755 tmpfs /opt
ln -s {prefix} /opt/sealserve
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/site
mount --bind {site} /mnt/site
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir /var/lib/sealserve
mount --move /mnt/site /var/lib/sealserve
cp {unit} /etc/systemd/system/
mkdir /etc/systemd/system/sealserve-broker.service.d
cp {drop_in} /etc/systemd/system/sealserve-broker.service.d/
export container=sealserve-test
exec {init} --system --unit=sealserve-broker.service --log-target=null --show-status=no
'
"""


def missing() -> str | None:
    """Return why systemd cannot run here, or None."""
    if os.environ.get(ALLOWED) != "1":
        return f"runs a systemd in namespaces as root: set {ALLOWED}=1"
    if os.geteuid() != 0 or not INIT.exists() or shutil.which("nsenter") is None:
        return "needs root, systemd and util-linux"
    return None


@dataclass(frozen=True, slots=True)
class Init:
    """A running systemd."""

    pid: int
    log: Path

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a program beside systemd, in its namespaces."""
        line = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", *command]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=_SECONDS)


@contextlib.contextmanager
def running(site: Path, folder: Path) -> Iterator[Init]:
    """Start systemd with the broker's unit, and end it.

    Args:
        site: The broker's workspace.
        folder: A folder for the log and the scripts.
    """
    group, log, drop_in = f"sealserve-test-{secrets.token_hex(4)}", folder / "broker.log", folder / "test.conf"
    log.touch()
    drop_in.write_text(_DROP_IN.format(log=log))
    paths = {"prefix": sys.prefix, "site": site, "unit": UNIT, "drop_in": drop_in, "init": INIT}
    script = _SCRIPT.format(group=group, **{name: shlex.quote(str(path)) for name, path in paths.items()})
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.DEVNULL)
    try:
        yield Init(_child(process), log)
    finally:
        process.send_signal(signal.SIGKILL)  # with --kill-child, systemd and its service end too
        process.wait(_SECONDS)
        remove = (
            "test -e /sys/fs/cgroup/cgroup.controllers || mount -t cgroup2 none /sys/fs/cgroup;"
            f" cd /sys/fs/cgroup/{group} || exit 0;"
            " for _ in $(seq 100); do find . -depth -type d -exec rmdir {} ';' 2>/dev/null;"
            f" rmdir /sys/fs/cgroup/{group} 2>/dev/null && exit 0; sleep 0.1; done; exit 1"
        )
        subprocess.run(["unshare", "--mount", "sh", "-c", remove], check=True, timeout=_SECONDS)


def _child(process: "subprocess.Popen[bytes]") -> int:
    """Return the process id of systemd: the only child of the process that created its namespaces."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        with contextlib.suppress(OSError):  # a command of the script has ended meanwhile
            for child in children.read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
    raise AssertionError(f"systemd did not start: exit status {process.returncode}")
